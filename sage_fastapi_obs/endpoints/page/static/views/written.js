/** How requests are written and addressed, whatever somebody has put into them. */

const LONGEST_TEXT = 20_000;

// The address of the page of a request.
/** @param {string} id */
export function requestAddress(id) {
  try {
    return `#/requests/${encodeURIComponent(id)}`;
  } catch {
    // Half of a surrogate pair: no id of ours.
    return "#/requests/-";
  }
}

// A text of somebody else's, no longer than a page can show.
/** @param {unknown} value */
export function text(value) {
  const whole = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return whole.length > LONGEST_TEXT ? `${whole.slice(0, LONGEST_TEXT)}…` : whole;
}

/** @param {any} request */
export const nameOf = (request) => text(`${request.method || request.kind} ${request.route ?? request.path}`);
