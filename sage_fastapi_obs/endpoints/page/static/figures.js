/** Figures have three states: a value, no data yet, cannot be read. A number that is none is never shown as one. */

import { h } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./api.js").Answer} Answer */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{state: "value", text: string} | {state: "none"} | {state: "unavailable", reason: string}} Shown */
/** @typedef {"good" | "warning" | "bad" | "neutral"} Level */

export const NOTHING = "–";
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const SIGNS = { good: "✓", warning: "▲", bad: "✕", neutral: "" };

/**
 * Show a figure.
 * @param {string} label
 * @param {Shown} shown
 * @param {{detail?: Child, level?: Level, href?: string}} options `level` counts for values only
 */
export function figure(label, shown, { detail = null, level = "neutral", href } = {}) {
  const known = shown.state === "value" ? level : "neutral";
  const name = href ? h("a", { href }, label) : label;
  const parts = [h("dt", null, name), h("dd", null, shownText(shown), sign(known)), detail ? h("dd", { class: "detail" }, detail) : null];
  return h("div", { class: `figure ${known} ${shown.state}`, "data-state": shown.state }, parts);
}

/** @param {Level} level */
function sign(level) {
  return SIGNS[level] ? h("span", { class: "sign", role: "img", "aria-label": texts.levels[level] }, SIGNS[level]) : null;
}

/** @param {Shown} shown */
function shownText(shown) {
  if (shown.state === "value") return h("span", { class: "value" }, shown.text);
  return h("span", { class: "missing" }, shown.state === "none" ? texts.states.none : texts.states.unavailable(shown.reason));
}

/**
 * Read a figure of the overview: `{value, reason}`.
 * @param {any} source
 * @param {(value: number) => string} format
 * @returns {Shown}
 */
export function shownOf(source, format) {
  if (isNumber(source?.value)) return { state: "value", text: format(source.value) };
  if (source?.value === null && !source.reason) return { state: "none" };
  return { state: "unavailable", reason: typeof source?.reason === "string" ? source.reason : texts.reasons.absent };
}

/**
 * Show an answer, or why there is none.
 * @param {Answer} answer
 * @param {(value: any) => Child} render
 * @returns {Child}
 */
export function part(answer, render) {
  if (answer.state === "unavailable") return problem(answer.reason);
  try {
    return render(answer.value);
  } catch (error) {
    // The answer is not what this page knows: half a view would say that the other half is well.
    console.info("an answer could not be shown", error);
    return problem(texts.reasons.garbage);
  }
}

// Say why something is not shown.
/** @param {string} reason */
export function problem(reason) {
  const mark = h("span", { class: "sign", "aria-hidden": "true" }, "⚠ ");
  return h("p", { class: "problem", role: "status" }, mark, texts.states.unavailable(reason));
}

// Say that there is nothing, and what to do.
/** @param {string} title @param {...Child} children */
export const nothing = (title, ...children) => h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), ...children);

// A word with a sign and a colour.
/** @param {Level} level @param {string} text */
export const tag = (level, text) => h("span", { class: `tag ${level}` }, SIGNS[level] ? h("span", { "aria-hidden": "true" }, SIGNS[level], " ") : null, text);

// The level of an HTTP status.
/** @param {number} status @returns {Level} */
export const statusLevel = (status) => (status >= 500 ? "bad" : status >= 400 ? "warning" : status > 0 ? "good" : "neutral");

/** @param {unknown} value @returns {value is number} */
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {(value: number) => string} format @returns {(value: unknown) => string} */
const finite = (format) => (value) => (isNumber(value) ? format(value) : NOTHING);

// Three digits, as many of them behind the point as there is room for.
/** @param {number} value */
function short(value) {
  const size = Math.abs(value);
  return size >= 100 ? grouped(value) : String(Number(size < 1 ? value.toPrecision(2) : value.toFixed(size >= 10 ? 1 : 2)));
}

/** @param {number} value */
const grouped = (value) => Math.round(value).toLocaleString("en-US").replaceAll(",", "\u2009");

export const milliseconds = finite((ms) => {
  if (Math.abs(ms) < 1_000) return `${short(ms)} ms`;
  return Math.abs(ms) < 60_000 ? `${short(ms / 1_000)} s` : duration(ms / 1_000);
});
export const count = finite(grouped);
export const factor = finite(short);
export const plain = finite(short);
export const rate = finite((value) => `${short(value)}/s`);
export const percent = finite((share) => `${share !== 0 && Math.abs(share) < 0.0001 ? "< 0.01" : short(share * 100)} %`);
export const ago = finite((seconds) => texts.time.ago(duration(Math.max(0, seconds))));
// Made once: to make one takes longer than to draw a row.
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
export const time = finite((seconds) => (Math.abs(seconds) < 8e12 ? CLOCK.format(seconds * 1_000) : NOTHING));
const DATE = /** @type {const} */ ({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
export const date = finite((seconds) => new Date(seconds * 1_000).toLocaleString("en-GB", DATE));

export const bytes = finite((value) => {
  const power = Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log10(Math.abs(value) || 1) / 3)));
  return `${short(value / 1_000 ** power)} ${UNITS[power]}`;
});

/** @param {number} seconds */
function duration(seconds) {
  if (seconds >= 2 * 86_400) return `${Math.round(seconds / 86_400)} d`;
  if (seconds >= 2 * 3_600) return `${Math.round(seconds / 3_600)} h`;
  return seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.floor(seconds)} s`;
}
