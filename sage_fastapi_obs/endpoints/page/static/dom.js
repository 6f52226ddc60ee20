/** Elements of the page. Whatever is shown is a text node: nothing that was written by others is ever read as HTML. */

/** @typedef {Node | string | number | null | undefined | false | any[]} Child */
/** @typedef {Record<string, any> | null} Attributes */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Build an element of HTML.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes] functions are listeners (`onclick`), null and false are left out
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * Build an element of SVG.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A link only where a browser should follow it.
/** @param {string} address @param {string} [name] */
export const link = (address, name = address) => (/^https?:\/\//.test(address) ? h("a", { href: address, rel: "noreferrer" }, name) : name);

/**
 * Put children in the place of those that are there.
 * @param {Element} place
 * @param {...Child} children
 */
export function replace(place, ...children) {
  place.replaceChildren(...nodes(children));
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes | undefined} attributes
 * @param {Child[]} children
 * @returns {E}
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) set(element, name, value);
  element.append(...nodes(children));
  return element;
}

/** @param {Element} element @param {string} name @param {any} value */
function set(element, name, value) {
  if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
  else if (value === true) element.setAttribute(name, "");
  else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
}

/** @param {Child[]} children @returns {(Node | string)[]} */
function nodes(children) {
  const shown = /** @type {(Node | string | number)[]} */ (children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return shown.map((child) => (child instanceof Node ? child : String(child)));
}
