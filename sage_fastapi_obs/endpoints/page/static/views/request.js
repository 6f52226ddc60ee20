/** One request: why it was slow or failed, where its time went, what else ran meanwhile, its exception, its lines. */

import { get } from "../api.js";
import { saveCase } from "../case.js";
import { h, link, replace } from "../dom.js";
import { milliseconds, part, statusLevel, tag, time } from "../figures.js";
import { texts } from "../texts.js";
import { lineTable, pairs } from "./lines.js";
import { MOST_PIECES, overlapTimes, spanTimes, splitTimes } from "./times.js";
import { nameOf, requestAddress, text } from "./written.js";

/** @typedef {import("../dom.js").Child} Child */

const words = texts.request;
const IDS = ["request_id", "correlation_id", "trace_id", "key"];

/** @param {HTMLElement} place @param {string} id @param {AbortSignal} signal */
export async function showRequest(place, id, signal) {
  const top = h("div", { class: "row" }, h("a", { href: "#/requests" }, words.all));
  const content = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  replace(place, top, content);
  const answer = await get(`requests/${requestAddress(id).replace("#/requests/", "")}`, {}, { signal });
  if (signal.aborted) return;
  replace(content, part(answer, showStories));
  if (answer.state === "value") top.append(h("button", { onclick: () => saveCase(id, answer.value) }, words.save));
}

/**
 * Show what was answered for an id, or what stands in a case.
 * @param {any} found
 * @returns {Child}
 */
export function showStories({ stories, note, lines = [] }) {
  const [first, ...others] = /** @type {any[]} */ (stories);
  return [
    first ? story(first) : null,
    lines.length ? section(words.lines, lineTable(lines)) : null,
    others.length ? olderOnes(others) : null,
    typeof note === "string" ? h("p", { class: "quiet" }, text(note)) : null,
  ];
}

/** @param {any[]} others */
function olderOnes(others) {
  const rows = others.slice(0, MOST_PIECES).map(({ request }) => h("li", null, h("a", { href: requestAddress(request.key) }, nameOf(request))));
  return h("details", null, h("summary", null, words.others(others.length)), h("ul", { class: "reasons" }, rows));
}

/** @param {any} found @returns {Child} */
function story({ request, why, timings_ms: timings, spans, error, overlap, lines, links = {}, dropped_spans: lostSpans, dropped_lines: lostLines }) {
  const lost = (/** @type {number} */ number, /** @type {(number: number) => string} */ say) => (number ? h("p", { class: "quiet" }, say(number)) : null);
  return [
    heading(request),
    section(words.why, causes(why, request)),
    error ? section(words.exception, exception(error)) : null,
    overlap?.length ? section(words.overlap, overlapTimes(request, why, overlap)) : null,
    Object.keys(timings).length ? section(words.split, splitTimes(timings, request.duration_ms)) : null,
    section(words.spans, spanTimes(spans, request.duration_ms), lost(lostSpans, words.lostSpans)),
    lines ? section(words.lines, lineTable(lines), lost(lostLines, words.lostLines)) : null,
    section(words.ids, ids(request), elsewhere(links), command(request)),
  ];
}

/** @param {string} title @param {...Child} children */
const section = (title, ...children) => h("section", null, h("h2", null, title), ...children);

/** @param {any} request */
function heading(request) {
  const reasons = texts.requests.reasons;
  const kept = reasons[/** @type {keyof typeof reasons} */ (request.kept)] ?? text(request.kept);
  const at = h("time", { datetime: text(request.timestamp), title: text(request.timestamp) }, time(Date.parse(request.timestamp) / 1_000));
  const facts = [
    tag(statusLevel(request.status), String(request.status)),
    h("b", null, milliseconds(request.duration_ms)),
    at,
    h("code", null, text(request.path)),
    h("span", { class: "quiet" }, words.kept(kept)),
  ];
  return h("div", null, h("h1", null, nameOf(request)), h("p", { class: "facts" }, facts));
}

/** @param {any[]} why @param {any} request */
function causes(why, request) {
  if (!why.length) return h("p", { class: "quiet" }, request.failed ? words.noReason : words.nothingWrong);
  return h("ol", { class: "causes" }, why.map(cause));
}

/** @param {any} found */
function cause({ text: clause, evidence, lost_ms: lost, by = [], remedy, docs }) {
  const blockers = by.map((/** @type {string} */ id) => h("a", { href: requestAddress(id) }, words.blocker));
  const how = evidence === "observed" || evidence === "inferred" ? words.evidence[/** @type {"observed" | "inferred"} */ (evidence)] : null;
  return h("li", { class: "card" },
    h("p", { class: "cause" }, text(clause)),
    h("p", { class: "facts quiet" }, how && h("span", { class: "tag", title: how.explain }, how.name), lost > 0 ? words.lost(milliseconds(lost)) : null, blockers),
    h("p", null, words.remedy, " ", coded(text(remedy)), " ", h("span", { class: "quiet" }, link(text(docs), `docs/${text(docs).replace(/.*\//, "")}`))),
  );
}

// A text of ours, whose code stands between backticks.
/** @param {string} value */
const coded = (value) => value.split("`").map((piece, number) => (number % 2 ? h("code", null, piece) : piece));

// The innermost frame of the application, and the stack with the frames of libraries folded.
/** @param {any} error */
function exception({ type, message, place, stack }) {
  const own = stack.filter((/** @type {any} */ piece) => piece.kind === "application").at(-1);
  return [
    h("p", { class: "cause" }, text(`${type}: ${message}`)),
    place ? h("p", null, h("code", null, text(place))) : null,
    own ? h("pre", { class: "application", tabindex: "0" }, text(own.text)) : null,
    h("details", { open: true }, h("summary", null, words.stack), stack.slice(0, MOST_PIECES).map(frames)),
  ];
}

/** @param {any} piece */
function frames(piece) {
  const shown = h("pre", { class: piece.kind === "application" ? "application" : null, tabindex: "0" }, text(piece.text));
  return piece.kind === "library" ? h("details", null, h("summary", null, words.libraries(piece.frames)), shown) : shown;
}

/** @param {any} request */
const ids = (request) => pairs(IDS.filter((name) => request[name]).map((name) => [name.replace("_", " "), copied(text(request[name]))]));

/** @param {Record<string, any>} links */
const elsewhere = (links) => (Object.keys(links).length ? h("p", { class: "facts" }, Object.entries(links).map(([name, address]) => link(text(address), name))) : null);

/** @param {any} request */
const command = (request) => h("details", null, h("summary", null, words.curl), copied(curl(request)), h("p", { class: "quiet" }, words.curlNote));

// A text with a button that copies it; where the browser does not allow that, the button marks the text.
/** @param {string} value */
function copied(value) {
  const code = h("code", null, value);
  const mark = () => getSelection()?.selectAllChildren(code);
  const button = h("button", { class: "small", onclick: () => copy() }, words.copy);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(value);
      replace(button, words.copied);
    } catch {
      mark();
    }
  };
  return h("span", { class: "copied" }, code, button);
}

// The request as a command: without headers, query and body, which are not kept.
/** @param {any} request */
export function curl(request) {
  const path = `/${String(request.path).replace(/^\/+/, "")}`.replace(/[^A-Za-z0-9/._~:@!$&()*+,;=-]/gu, escaped);
  return `curl --request ${quoted(request.method || "GET")} ${quoted(location.origin + path)}`;
}

/** @param {string} sign */
const escaped = (sign) => [...new TextEncoder().encode(sign)].map((byte) => `%${byte.toString(16).padStart(2, "0").toUpperCase()}`).join("");

/** @param {string} word */
const quoted = (word) => (/^[A-Za-z0-9/._~:@-]+$/.test(word) ? word : `'${word.replace(/\p{C}/gu, "").replaceAll("'", "'\\''")}'`);
