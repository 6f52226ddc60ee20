/** Asks the service. An answer is a value, or the reason why there is none: nothing here throws. */

import { texts } from "./texts.js";

/** @typedef {{state: "value", value: any} | {state: "unavailable", reason: string}} Answer */
/** @typedef {Record<string, string | number | boolean | null | undefined>} Query */

const PATIENCE_MS = 15_000;
const MOST_REASON = 300;

/** Tells the page that a token is needed (event `login`). */
export const access = new EventTarget();

/**
 * Ask for a document.
 * @param {string} path relative to the page: `requests/ID`
 * @param {Query} [query] null and undefined are left out
 * @param {{signal?: AbortSignal}} options
 * @returns {Promise<Answer>}
 */
export function get(path, query = {}, { signal } = {}) {
  return ask(address(path, query), { method: "GET" }, signal);
}

/** @param {string} path @param {any} body @returns {Promise<Answer>} */
export function put(path, body) {
  return ask(address(path), { method: "PUT", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

/** @param {string} path @param {any} body @returns {Promise<Answer>} */
export function post(path, body) {
  return ask(address(path), { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

// The address of a document of this service.
/** @param {string} path @param {Query} [query] */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined) url.searchParams.set(name, String(value));
  return url.href;
}

/** @param {string} reason @returns {Answer} */
export const unavailable = (reason) => ({ state: "unavailable", reason: reason.slice(0, MOST_REASON) });

/** @param {string} url @param {RequestInit} request @param {AbortSignal} [signal] @returns {Promise<Answer>} */
async function ask(url, request, signal) {
  const controller = new AbortController();
  const late = setTimeout(() => controller.abort(), PATIENCE_MS);
  signal?.addEventListener("abort", () => controller.abort());
  try {
    const response = await fetch(url, { ...request, cache: "no-store", redirect: "error", signal: controller.signal });
    return read(response.status, await response.text());
  } catch {
    return unavailable(controller.signal.aborted ? texts.reasons.late : texts.reasons.network);
  } finally {
    clearTimeout(late);
  }
}

/** @param {number} status @param {string} text @returns {Answer} */
function read(status, text) {
  const value = parsed(text);
  if (status === 401) access.dispatchEvent(new Event("login"));
  if (status >= 400) return unavailable(typeof value?.detail === "string" ? texts.reasons.refused(status, value.detail) : texts.reasons.status(status));
  return value === undefined || value === null ? unavailable(texts.reasons.garbage) : { state: "value", value };
}

/** @param {string} text @returns {any} what the JSON says; undefined if it is none */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
