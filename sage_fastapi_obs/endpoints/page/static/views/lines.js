/** Log lines in a table, with a filter by level. */

import { h, replace } from "../dom.js";
import { tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { text } from "./written.js";

const words = texts.request;
const LEVELS = ["debug", "info", "warn", "error", "critical"];
const MOST_PAIRS = 200;
const IDS = ["request_id", "correlation_id", "trace_id", "span_id", "trace_flags"];
const SHOWN_APART = new Set(["timestamp", "level", "message", "error", ...IDS]);

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "time", title: texts.requests.time, cell: ({ timestamp }) => h("time", { title: text(timestamp) }, text(timestamp).slice(11, 23)) },
  { key: "level", title: words.level, cell: ({ level }) => tag(signOf(level), text(level)) },
  { key: "message", title: words.message, cell: (line) => [h("span", { class: "why" }, text(line.message)), fields(line)] },
];

/** @param {any[]} lines */
export function lineTable(lines) {
  const place = h("div", { class: "log" });
  const select = h("select", { onchange: () => draw(select.value) }, LEVELS.map((level) => h("option", { value: level }, level)));
  /** @param {string} least */
  function draw(least) {
    const shown = lines.filter(({ level }) => !LEVELS.includes(level) || LEVELS.indexOf(level) >= LEVELS.indexOf(least));
    replace(place, table(COLUMNS, shown, { empty: words.noLines, label: words.lines }));
  }
  draw("debug");
  return [h("label", null, words.level, " ", select), place];
}

/** @param {string} level */
const signOf = (level) => (level === "error" || level === "critical" ? "bad" : level === "warn" ? "warning" : "neutral");

/** @param {any} line */
function fields(line) {
  const others = Object.entries(line).filter(([name, value]) => !SHOWN_APART.has(name) && value !== null);
  const stack = typeof line.error?.stack_trace === "string" ? h("pre", { tabindex: "0" }, text(line.error.stack_trace)) : null;
  return others.length || stack ? h("details", null, h("summary", null, words.fields(others.length)), attributes(others), stack) : null;
}

/** @param {[string, unknown][]} found */
export const attributes = (found) => pairs(found.slice(0, MOST_PAIRS).map(([name, value]) => [text(name), text(value)]));

/** @param {[string, import("../dom.js").Child][]} found */
export const pairs = (found) => h("dl", { class: "pairs" }, found.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
