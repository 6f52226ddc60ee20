/** One request: why it was slow or failed, where its time went, what else ran meanwhile, its exception, its lines. */

import { get } from "../api.js";
import { saveCase } from "../case.js";
import { waterfall } from "../charts.js";
import { h, replace } from "../dom.js";
import { isNumber, milliseconds, part, statusLevel, tag, time } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";

/** @typedef {import("../dom.js").Child} Child */
/** @typedef {import("../charts.js").Piece} Piece */

const words = texts.request;
const LONGEST_TEXT = 20_000;
const MOST_PIECES = 200;
const FOLDED_FROM = 3;
const MOST_FOLDED = 50;
const IDS = ["request_id", "correlation_id", "trace_id", "key"];
const LEVELS = ["debug", "info", "warn", "error", "critical"];
const SHOWN_APART = new Set(["timestamp", "level", "message", "error", "request_id", "correlation_id", "trace_id", "span_id", "trace_flags"]);

/**
 * The address of the page of a request.
 * @param {string} id
 */
export function requestAddress(id) {
  try {
    return `#/requests/${encodeURIComponent(id)}`;
  } catch {
    // Half of a surrogate pair: no id of ours.
    return "#/requests";
  }
}

/** @param {HTMLElement} place @param {string} id @param {AbortSignal} signal */
export function showRequest(place, id, signal) {
  const content = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  const top = h("div", { class: "row" }, h("a", { href: "#/requests" }, words.all));
  replace(place, top, content);
  get(`requests/${encodeURIComponent(id)}`, {}, { signal }).then((answer) => {
    if (signal.aborted) return;
    replace(content, part(answer, showStories));
    if (answer.state === "value") top.append(h("button", { onclick: () => saveCase(id, answer.value) }, words.save));
  });
}

/**
 * Show what was answered for an id, or what stands in a case.
 * @param {any} found
 * @returns {Child}
 */
export function showStories({ stories, note, lines = [] }) {
  const [first, ...others] = /** @type {any[]} */ (stories);
  const more = others.length ? h("details", null, h("summary", null, words.others(others.length)), h("ul", { class: "reasons" }, others.map(({ request }) => h("li", null, requestLink(request))))) : null;
  return [first ? story(first) : null, lines.length ? section(words.lines, lineTable(lines)) : null, more, typeof note === "string" ? h("p", { class: "quiet" }, text(note)) : null];
}

/** @param {any} found @returns {Child} */
function story({ request, why, timings_ms: timings, spans, error, overlap, lines, dropped_spans: lostSpans, dropped_lines: lostLines }) {
  return [
    heading(request),
    section(words.why, causes(why, request)),
    error ? section(words.exception, exception(error)) : null,
    overlap?.length ? section(words.overlap, overlapping(request, why, overlap)) : null,
    Object.keys(timings).length ? section(words.split, split(timings, request.duration_ms)) : null,
    section(words.spans, pieces(spans, request.duration_ms), lostSpans ? h("p", { class: "quiet" }, words.lostSpans(lostSpans)) : null),
    lines ? section(words.lines, lineTable(lines), lostLines ? h("p", { class: "quiet" }, words.lostLines(lostLines)) : null) : null,
    section(words.ids, ids(request), h("details", null, h("summary", null, words.curl), copied(curl(request)), h("p", { class: "quiet" }, words.curlNote))),
  ];
}

/** @param {string} title @param {...Child} children */
const section = (title, ...children) => h("section", null, h("h2", null, title), ...children);

/**
 * A text of somebody else's, no longer than a page can show.
 * @param {unknown} value
 */
function text(value) {
  const whole = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return whole.length > LONGEST_TEXT ? `${whole.slice(0, LONGEST_TEXT)}…` : whole;
}

/** @param {any} request */
function heading(request) {
  const kept = words.kept(texts.requests.reasons[/** @type {keyof typeof texts.requests.reasons} */ (request.kept)] ?? text(request.kept));
  const at = Date.parse(request.timestamp) / 1_000;
  return h("div", null, h("h1", null, text(`${request.method || request.kind} ${request.route ?? request.path}`)), h("p", { class: "facts" }, tag(statusLevel(request.status), String(request.status)), h("b", null, milliseconds(request.duration_ms)), h("time", { datetime: text(request.timestamp), title: text(request.timestamp) }, time(at)), h("code", null, text(request.path)), h("span", { class: "quiet" }, kept)));
}

/** @param {any[]} why @param {any} request */
function causes(why, request) {
  if (!why.length) return h("p", { class: "quiet" }, request.failed ? words.noReason : words.nothingWrong);
  return h("ol", { class: "causes" }, why.map((cause) => h("li", { class: "card" }, h("p", { class: "cause" }, text(cause.text)), h("p", { class: "facts quiet" }, evidence(cause.evidence), cause.lost_ms > 0 ? words.lost(milliseconds(cause.lost_ms)) : null, (cause.by ?? []).map((/** @type {string} */ id) => h("a", { href: requestAddress(id) }, words.blocker))), h("p", null, words.remedy, " ", coded(text(cause.remedy)), " ", h("span", { class: "quiet" }, `docs/${text(cause.docs)}`)))));
}

/**
 * A text of ours, whose code stands between backticks.
 * @param {string} value
 */
const coded = (value) => value.split("`").map((piece, number) => (number % 2 ? h("code", null, piece) : piece));

/** @param {unknown} how */
function evidence(how) {
  if (how !== "observed" && how !== "inferred") return null;
  return h("span", { class: "tag", title: words.evidence[how].explain }, words.evidence[how].name);
}

/** @param {any} error */
function exception({ type, message, place, stack }) {
  const own = stack.filter((/** @type {any} */ piece) => piece.kind === "application").at(-1);
  const folded = (/** @type {any} */ piece) => (piece.kind === "library" ? h("details", null, h("summary", null, words.libraries(piece.frames)), h("pre", null, text(piece.text))) : h("pre", { class: piece.kind }, text(piece.text)));
  return [
    h("p", { class: "cause" }, text(`${type}: ${message}`)),
    place ? h("p", null, h("code", null, text(place))) : null,
    own ? h("pre", { class: "application" }, text(own.text)) : null,
    h("details", { open: true }, h("summary", null, words.stack), stack.slice(0, MOST_PIECES).map(folded)),
  ];
}

/** @param {any} request @param {any[]} why @param {any[]} overlap */
function overlapping(request, why, overlap) {
  const blocks = why.flatMap(({ text: name, blocks: found }) => (found ?? []).map((/** @type {any} */ block) => ({ ...block, name })));
  const start = Math.min(0, ...blocks.map(({ offset_ms: at }) => at), ...overlap.map(({ offset_ms: at }) => at));
  const piece = (/** @type {Child} */ name, /** @type {number} */ at, /** @type {number} */ ms, /** @type {Piece["level"]} */ level) => ({ name, start: at - start, duration: ms, level });
  const others = overlap.map((one) => piece([requestLink(one.request), " ", h("span", { class: "quiet" }, words.relations[/** @type {keyof typeof words.relations} */ (one.relation)])], one.offset_ms, one.request.duration_ms, one.relation === "blocking" ? "bad" : one.relation === "delayed" ? "warning" : "neutral"));
  return [h("p", { class: "quiet" }, words.overlapHint), h("div", { class: "card" }, waterfall([...blocks.map((block) => piece(h("b", null, words.block), block.offset_ms, block.duration_ms, "bad")), piece(h("b", null, words.this), 0, request.duration_ms, "good"), ...others].slice(0, MOST_PIECES), { label: words.overlap, format: milliseconds }))];
}

/** @param {any} request */
const requestLink = (request) => h("a", { href: requestAddress(request.key) }, text(`${request.method || request.kind} ${request.route ?? request.path}`));

/** @param {Record<string, number>} timings @param {number} whole */
function split(timings, whole) {
  const known = Object.entries(timings).filter(([, ms]) => isNumber(ms)).sort((one, other) => other[1] - one[1]);
  return h("div", { class: "card" }, waterfall(known.slice(0, MOST_PIECES).map(([name, ms]) => ({ name: name.replaceAll("_", " "), start: 0, duration: ms })), { label: words.split, format: milliseconds, end: Math.max(whole, ...known.map(([, ms]) => ms)) }));
}

/** @param {any[]} spans @param {number} whole @returns {Child} */
function pieces(spans, whole) {
  const rows = [...below(spans, 0)];
  if (!rows.length) return h("p", { class: "quiet" }, words.noSpans);
  const start = Math.min(0, ...rows.slice(0, MOST_PIECES).map((row) => row.start));
  const shown = rows.slice(0, MOST_PIECES).map((row) => ({ ...row, start: row.start - start }));
  const end = Math.max(whole - start, ...shown.map((row) => row.start + row.duration));
  return [h("div", { class: "card" }, waterfall(shown, { label: words.spans, format: milliseconds, end })), rows.length > MOST_PIECES ? h("p", { class: "quiet" }, texts.table.cut(MOST_PIECES, rows.length)) : null];
}

/**
 * Spans from top to bottom; those that are the same again and again are one row.
 * @param {any[]} spans @param {number} depth
 * @returns {Generator<Piece>}
 */
function* below(spans, depth) {
  /** @type {Map<string, any[]>} */
  const alike = new Map();
  for (const span of spans) alike.set(kind(span), [...(alike.get(kind(span)) ?? []), span]);
  const groups = [...alike.values()].flatMap((group) => (group.length < FOLDED_FROM ? group.map((span) => [span]) : [group]));
  for (const group of groups.sort((one, other) => one[0].offset_ms - other[0].offset_ms)) {
    yield group.length > 1 ? folded(group, depth) : piece(group[0], depth);
    if (group.length === 1) yield* below(group[0].children ?? [], depth + 1);
  }
}

/**
 * What is the same for spans that can be told as one: those with others below them cannot.
 * @param {any} span
 */
const kind = (span) => JSON.stringify(span.children?.length ? span.span_id : [span.kind, span.name, span.status, span.attributes?.["db.query.text"] ?? null]);

/** @param {any} span @param {number} depth @returns {Piece} */
function piece(span, depth) {
  const failed = span.status === "ERROR";
  const about = Object.entries(span.attributes ?? {});
  const detail = about.length || span.description ? h("details", null, h("summary", null, words.attributes(about.length)), span.description ? h("p", { class: "problem" }, text(span.description)) : null, attributes(about)) : null;
  return { name: [label(span), span.misplaced ? h("span", { class: "quiet" }, ` (${text(span.misplaced)})`) : null], start: span.offset_ms, duration: span.duration_ms, depth, level: failed ? "bad" : "neutral", detail };
}

/** @param {any[]} group @param {number} depth @returns {Piece} */
function folded(group, depth) {
  const [first] = group;
  const end = Math.max(...group.map((span) => span.offset_ms + span.duration_ms));
  const total = group.reduce((sum, span) => sum + span.duration_ms, 0);
  const each = group.slice(0, MOST_FOLDED).map((span) => h("li", null, milliseconds(span.offset_ms), " + ", milliseconds(span.duration_ms)));
  const detail = h("details", null, h("summary", null, words.each(group.length)), attributes(Object.entries(first.attributes ?? {})), h("ul", { class: "each" }, each));
  return { name: [label(first), h("b", { class: "times" }, ` × ${group.length}`)], start: first.offset_ms, duration: end - first.offset_ms, depth, level: "warning", text: milliseconds(total), detail };
}

/** @param {any} span */
const label = (span) => [span.kind === "INTERNAL" || span.kind === "SERVER" ? null : h("span", { class: "quiet" }, `${text(span.kind).toLowerCase()} `), text(span.name)];

/** @param {[string, unknown][]} pairs */
const attributes = (pairs) => h("dl", { class: "pairs" }, pairs.slice(0, MOST_PIECES).map(([name, value]) => [h("dt", null, text(name)), h("dd", null, text(value))]));

/** @param {any[]} lines */
function lineTable(lines) {
  const place = h("div", { class: "log" });
  const draw = (/** @type {string} */ least) => replace(place, table(LINE_COLUMNS, lines.filter(({ level }) => LEVELS.indexOf(level) >= LEVELS.indexOf(least) || !LEVELS.includes(level)), { empty: words.noLines, label: words.lines }));
  const select = h("select", { onchange: () => draw(select.value) }, LEVELS.map((level) => h("option", { value: level }, level)));
  draw("debug");
  return [h("label", null, words.level, " ", select), place];
}

/** @type {import("../table.js").Column[]} */
const LINE_COLUMNS = [
  { key: "time", title: texts.requests.time, cell: ({ timestamp }) => h("time", { title: text(timestamp) }, text(timestamp).slice(11, 23)) },
  { key: "level", title: words.level, cell: ({ level }) => tag(level === "error" || level === "critical" ? "bad" : level === "warn" ? "warning" : "neutral", text(level)) },
  { key: "message", title: words.message, cell: (line) => [h("span", { class: "why" }, text(line.message)), rest(line)] },
];

/** @param {any} line */
function rest(line) {
  const others = Object.entries(line).filter(([name, value]) => !SHOWN_APART.has(name) && value !== null);
  const stack = typeof line.error?.stack_trace === "string" ? h("pre", null, text(line.error.stack_trace)) : null;
  return others.length || stack ? h("details", null, h("summary", null, words.fields(others.length)), attributes(others), stack) : null;
}

/** @param {any} request */
function ids(request) {
  const shown = IDS.filter((name) => request[name]);
  return h("dl", { class: "pairs" }, shown.map((name) => [h("dt", null, name.replace("_", " ")), h("dd", null, copied(text(request[name])))]));
}

/**
 * A text with a button that copies it; where the browser does not allow that, the button marks the text.
 * @param {string} value
 */
function copied(value) {
  const code = h("code", null, value);
  const button = h("button", { class: "small", onclick: () => navigator.clipboard?.writeText(value).then(() => replace(button, words.copied), mark) ?? mark() }, words.copy);
  const mark = () => getSelection()?.selectAllChildren(code);
  return h("span", { class: "copied" }, code, button);
}

/**
 * The request as a command: without headers, query and body, which are not kept.
 * @param {any} request
 */
function curl(request) {
  const path = `/${String(request.path).replace(/^\/+/, "")}`.replace(/[^A-Za-z0-9/._~:@!$&()*+,;=-]/gu, escaped);
  return `curl --request ${quoted(request.method || "GET")} ${quoted(location.origin + path)}`;
}

/** @param {string} sign */
function escaped(sign) {
  return [...new TextEncoder().encode(sign)].map((byte) => `%${byte.toString(16).padStart(2, "0").toUpperCase()}`).join("");
}

/** @param {string} word */
const quoted = (word) => (/^[A-Za-z0-9/._~:@-]+$/.test(word) ? word : `'${word.replace(/[\p{C}]/gu, "").replaceAll("'", "'\\''")}'`);
