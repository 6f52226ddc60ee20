/** When the parts of a request were: its spans, the split of its time, and what overlapped a block of the event loop. */

import { waterfall } from "../charts.js";
import { h } from "../dom.js";
import { isNumber, milliseconds } from "../figures.js";
import { texts } from "../texts.js";
import { attributes } from "./lines.js";
import { nameOf, requestAddress, text } from "./written.js";

/** @typedef {import("../dom.js").Child} Child */
/** @typedef {import("../charts.js").Piece} Piece */

const words = texts.request;
export const MOST_PIECES = 200;
const FOLDED_FROM = 3;
const MOST_FOLDED = 50;
/** @type {Record<string, Piece["level"]>} */
const LEVELS = { blocking: "bad", delayed: "warning" };

// On one clock: the blocks, the request, and the others. The first of them begins at zero.
/** @param {any} request @param {any[]} why @param {any[]} overlap */
export function overlapTimes(request, why, overlap) {
  const blocks = why.flatMap(({ blocks: found }) => found ?? []).map((block) => at(h("b", null, words.block), block.offset_ms, block.duration_ms, "bad"));
  const own = at(h("b", null, words.this), 0, request.duration_ms, "good");
  const others = overlap.map((other) => at(related(other), other.offset_ms, other.request.duration_ms, LEVELS[other.relation]));
  return [h("p", { class: "quiet" }, words.overlapHint), drawn([...blocks, own, ...others], words.overlap)];
}

/** @param {Child} name @param {number} start @param {number} duration @param {Piece["level"]} [level] @returns {Piece} */
const at = (name, start, duration, level = "neutral") => ({ name, start, duration, level });

/** @param {any} other */
function related({ request, relation }) {
  const how = words.relations[/** @type {keyof typeof words.relations} */ (relation)] ?? "";
  return [h("a", { href: requestAddress(request.key) }, nameOf(request)), " ", h("span", { class: "quiet" }, how)];
}

// Draw pieces of time; some may have begun before zero.
/** @param {Piece[]} all @param {string} label @param {number} [whole] */
function drawn(all, label, whole = 0) {
  const rows = all.slice(0, MOST_PIECES);
  const start = Math.min(0, ...rows.map((row) => row.start));
  const shown = rows.map((row) => ({ ...row, start: row.start - start }));
  const end = Math.max(1e-6, whole - start, ...shown.map((row) => row.start + row.duration));
  const cut = all.length > rows.length ? h("p", { class: "quiet" }, texts.table.cut(rows.length, all.length)) : null;
  return [h("div", { class: "card" }, waterfall(shown, { label, format: milliseconds, end })), cut];
}

/** @param {Record<string, number>} timings @param {number} whole */
export function splitTimes(timings, whole) {
  const known = Object.entries(timings).filter(([, ms]) => isNumber(ms)).sort((one, other) => other[1] - one[1]);
  return drawn(known.map(([name, ms]) => at(name.replaceAll("_", " "), 0, ms)), words.split, whole);
}

/** @param {any[]} spans @param {number} whole @returns {Child} */
export function spanTimes(spans, whole) {
  const rows = [...below(spans, 0)];
  return rows.length ? drawn(rows, words.spans, whole) : h("p", { class: "quiet" }, words.noSpans);
}

/**
 * Spans from top to bottom; those that are the same again and again are one row.
 * @param {any[]} spans @param {number} depth
 * @returns {Generator<Piece>}
 */
function* below(spans, depth) {
  for (const group of groupsOf(spans)) {
    yield group.length > 1 ? folded(group, depth) : single(group[0], depth);
    if (group.length === 1) yield* below(group[0].children ?? [], depth + 1);
  }
}

/** @param {any[]} spans @returns {any[][]} */
function groupsOf(spans) {
  /** @type {Map<unknown, any[]>} */
  const alike = new Map();
  for (const span of spans) {
    // One with others below it stands alone.
    const kind = span.children?.length ? span : kindOf(span);
    alike.set(kind, alike.get(kind) ?? []).get(kind)?.push(span);
  }
  const groups = [...alike.values()].flatMap((group) => (group.length < FOLDED_FROM ? group.map((span) => [span]) : [group]));
  return groups.sort((one, other) => one[0].offset_ms - other[0].offset_ms);
}

// What is the same for spans that can be told as one.
/** @param {any} span */
const kindOf = ({ kind, name, status, attributes }) => JSON.stringify([kind, name, status, attributes?.["db.query.text"] ?? null]);

/** @param {any} span @param {number} depth @returns {Piece} */
function single(span, depth) {
  const about = Object.entries(span.attributes ?? {});
  const failure = span.description ? h("p", { class: "problem" }, text(span.description)) : null;
  const detail = about.length || failure ? h("details", null, h("summary", null, words.attributes(about.length)), failure, attributes(about)) : null;
  const misplaced = span.misplaced ? h("span", { class: "quiet" }, ` (${text(span.misplaced)})`) : null;
  return { ...at([label(span), misplaced], span.offset_ms, span.duration_ms, span.status === "ERROR" ? "bad" : "neutral"), depth, detail };
}

/** @param {any[]} group @param {number} depth @returns {Piece} */
function folded(group, depth) {
  const [first] = group;
  const end = Math.max(...group.map((span) => span.offset_ms + span.duration_ms));
  const total = group.reduce((sum, span) => sum + span.duration_ms, 0);
  const name = [label(first), h("b", { class: "times" }, ` × ${group.length}`)];
  return { ...at(name, first.offset_ms, end - first.offset_ms, "warning"), depth, text: milliseconds(total), detail: each(group) };
}

/** @param {any[]} group */
function each(group) {
  const rows = group.slice(0, MOST_FOLDED).map((span) => h("li", null, milliseconds(span.offset_ms), " + ", milliseconds(span.duration_ms)));
  return h("details", null, h("summary", null, words.each(group.length)), attributes(Object.entries(group[0].attributes ?? {})), h("ul", { class: "each" }, rows));
}

/** @param {any} span */
function label(span) {
  const kind = span.kind === "INTERNAL" || span.kind === "SERVER" ? null : h("span", { class: "quiet" }, `${text(span.kind).toLowerCase()} `);
  return [kind, text(span.name)];
}
