/** Which lines are written: the levels in force in all workers, and a change of one for some time. */

import { get, put } from "../api.js";
import { h, replace } from "../dom.js";
import { figure, milliseconds, part, problem } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { choose, poll, redraw } from "./redraw.js";

/** @typedef {import("../api.js").Answer} Answer */

const words = texts.loggers;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  const said = h("div", { role: "status" });
  const draw = (/** @type {Answer} */ answer) => redraw(body, part(answer, (found) => levels(found, change)));
  /** @param {{level: string | null, logger: string | null, seconds?: number}} wanted */
  async function change(wanted) {
    const answer = await put("loggers", wanted);
    if (context.signal.aborted) return;
    replace(said, answer.state === "value" ? h("p", null, words.changed) : problem(answer.reason));
    if (answer.state === "value") draw(answer);
  }
  replace(place, h("h1", null, title), h("p", { class: "quiet" }, words.explain), form(change), said, body);
  return poll(context, () => get("loggers", {}, { signal: context.signal }), draw);
}

/** @param {(wanted: {level: string, logger: string | null, seconds: number}) => void} change */
function form(change) {
  let level = "debug";
  let seconds = "300";
  const logger = h("input", { placeholder: words.every, "aria-label": words.columns.logger, maxlength: 200 });
  const submit = (/** @type {Event} */ event) => (event.preventDefault(), change({ level, logger: logger.value.trim() || null, seconds: Number(seconds) }));
  return h("form", { class: "controls card", onsubmit: submit }, logger, choose(words.columns.level, words.levels.map((name) => [name, name]), level, (value) => (level = value)), choose(words.for, words.spans, seconds, (value) => (seconds = value)), h("button", { class: "primary" }, words.change));
}

/** @param {any} found @param {(wanted: {level: null, logger: string | null}) => void} change */
function levels(found, change) {
  const columns = [...CHANGES, { key: "back", title: "", cell: (/** @type {any} */ row) => h("button", { class: "small", "data-key": `back ${row.logger}`, onclick: () => change({ level: null, logger: row.logger }) }, words.back) }];
  const others = found.others.filter((/** @type {any} */ other) => other.level !== found.level);
  const standard = Object.entries(found.standard_library).map(([logger, level]) => ({ logger, level }));
  return [
    h("dl", { class: "figures" }, figure(words.now, { state: "value", text: String(found.level) }, { level: found.level === found.configured ? "neutral" : "warning" }), figure(words.configured, { state: "value", text: String(found.configured) })),
    found.no_answer.length ? problem(words.silent(found.no_answer.join(", "))) : null,
    others.length ? h("p", null, others.map((/** @type {any} */ other) => words.other(other.worker, other.level)).join("; ")) : null,
    h("section", null, h("h2", null, words.changes), table(columns, found.loggers, { label: words.changes, empty: words.noChanges })),
    h("section", null, h("h2", null, words.standard), h("p", { class: "quiet" }, words.standardExplain), table(STANDARD, standard, { label: words.standard })),
  ];
}

/** @type {import("../table.js").Column[]} */
const CHANGES = [
  { key: "logger", title: words.columns.logger, cell: (row) => row.logger ?? words.every },
  { key: "level", title: words.columns.level, cell: (row) => row.level },
  { key: "left", title: words.columns.left, align: "right", cell: (row) => milliseconds(row.seconds_left === null ? null : row.seconds_left * 1_000) },
];

/** @type {import("../table.js").Column[]} */
const STANDARD = [
  { key: "logger", title: words.columns.logger, sort: (row) => row.logger, cell: (row) => row.logger },
  { key: "level", title: words.columns.level, sort: (row) => row.level, cell: (row) => row.level },
];
