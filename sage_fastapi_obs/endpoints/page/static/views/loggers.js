/** Which lines are written: the levels in force in all workers, and a change of one for some time. */

import { get, put } from "../api.js";
import { h, replace } from "../dom.js";
import { figure, milliseconds, part, problem } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { awaiting, choose, column, poll, quiet, redraw, wordsOf } from "./redraw.js";

/** @typedef {import("../api.js").Answer} Answer */

const words = texts.loggers;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const body = awaiting();
  const said = h("div", { role: "status" });
  const draw = (/** @type {Answer} */ answer) => redraw(body, part(answer, (found) => levels(found, change)));
  /** @param {{level: string | null, logger: string | null, seconds?: number}} wanted */
  async function change(wanted) {
    const answer = await put("loggers", wanted);
    if (context.signal.aborted) return;
    replace(said, answer.state === "value" ? h("p", null, words.changed) : problem(answer.reason));
    if (answer.state === "value") draw(answer);
  }
  replace(place, h("h1", null, title), quiet(words.explain), form(change), said, body);
  return poll(context, () => get("loggers", {}, { signal: context.signal }), draw);
}

/** @param {(wanted: {level: string, logger: string | null, seconds: number}) => void} change */
function form(change) {
  let level = "debug";
  let seconds = "300";
  const logger = h("input", { placeholder: words.every, "aria-label": words.columns.logger, maxlength: 200 });
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    change({ level, logger: logger.value.trim() || null, seconds: Number(seconds) });
  };
  const levels = /** @type {[string, string][]} */ (words.levels.map((name) => [name, name]));
  return h("form", { class: "controls card", onsubmit: submit },
    logger,
    choose(words.columns.level, levels, level, (value) => (level = value)),
    choose(words.for, words.spans, seconds, (value) => (seconds = value)),
    h("button", { class: "primary" }, words.change));
}

/** @param {any} found @param {(wanted: {level: null, logger: string | null}) => void} change */
function levels(found, change) {
  const restore = (/** @type {string | null} */ logger) => change({ level: null, logger });
  const back = (/** @type {any} */ { logger }) => h("button", { class: "small", "data-key": `back ${logger}`, onclick: () => restore(logger) }, words.back);
  const others = found.others.filter((/** @type {any} */ other) => other.level !== found.level);
  const standard = Object.entries(found.standard_library).map(([logger, level]) => ({ logger, level }));
  const value = (/** @type {string} */ text) => /** @type {import("../figures.js").Shown} */ ({ state: "value", text });
  return [
    h("dl", { class: "figures" },
      figure(words.now, value(found.level), { level: found.level === found.configured ? "neutral" : "warning" }),
      figure(words.configured, value(found.configured))),
    found.no_answer.length ? problem(words.silent(found.no_answer.join(", "))) : null,
    others.length ? h("p", null, others.map((/** @type {any} */ other) => words.other(other.worker, other.level)).join("; ")) : null,
    h("section", null, h("h2", null, words.changes), table([...CHANGES, column("back", "", back)], found.loggers, { label: words.changes, empty: words.noChanges })),
    h("section", null, h("h2", null, words.standard), quiet(words.standardExplain), table(STANDARD, standard, { label: words.standard })),
  ];
}

const CHANGES = [
  column("logger", words.columns.logger, (row) => row.logger ?? words.every),
  column("level", words.columns.level, (row) => row.level),
  column("left", words.columns.left, (row) => milliseconds(row.seconds_left === null ? null : row.seconds_left * 1_000), { align: "right" }),
];

const STANDARD = [wordsOf("logger", words.columns.logger, (row) => row.logger), wordsOf("level", words.columns.level, (row) => row.level)];
