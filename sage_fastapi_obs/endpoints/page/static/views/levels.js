/** Service levels: whether the promises are kept, and how much of the error budget is left. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { figure, isNumber, milliseconds, NOTHING, nothing, part, percent, plain, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { awaiting, choose, column, poll, quiet, redraw } from "./redraw.js";

/** @typedef {import("./index.js").Context} Context */

const words = texts.sla;
const FORMATS = /** @type {[string, (value: number) => string][]} */ ([["_ms", milliseconds], ["_minutes", (value) => milliseconds(value * 60_000)]]);
const JUDGED = ["availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms"];

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  const body = awaiting();
  const source = context.params.get("source") === "result" ? "result" : "http";
  const choice = choose(words.source, words.sources, source, (chosen) => context.go(`#/levels?source=${chosen}`));
  redraw(place, h("div", { class: "row" }, h("h1", null, title), choice), body);
  return poll(context, () => budgets(source, context), (answer) => redraw(body, part(answer, levels)));
}

// Ask for all windows, the chosen span first; one that cannot be read makes the whole not readable.
/** @param {string} source @param {Context} context @returns {Promise<import("../api.js").Answer>} */
async function budgets(source, { seconds, signal }) {
  const windows = new Set([Math.max(1, Math.round(seconds / 60)), ...words.windows.map(([minutes]) => minutes)]);
  const answers = await Promise.all([...windows].map((minutes) => get("sla", { minutes, source }, { signal })));
  const values = answers.flatMap((answer) => (answer.state === "value" ? [answer.value] : []));
  return answers.find(({ state }) => state === "unavailable") ?? { state: "value", value: values };
}

/** @param {any[]} windows */
function levels(windows) {
  const { targets, actual, minutes } = windows[0];
  const rows = Object.entries(targets).map(([name, target]) => ({ name, target, actual: actual[name] ?? null }));
  if (!rows.length) return nothing(words.empty, h("p", null, words.emptyHint));
  const ascending = [...windows].sort((one, other) => one.minutes - other.minutes);
  return [
    h("section", null, h("h2", null, words.budget), h("dl", { class: "figures" }, ascending.map(budget)), quiet(words.budgetExplain)),
    h("section", null, h("h2", null, words.targets(span(minutes))), table(COLUMNS, rows, { label: title })),
  ];
}

/** @param {any} window */
function budget(window) {
  const { minutes, error_budget_left: left, burn_rate: burn, covered_seconds: covered } = window;
  const shown = leftOf(window);
  const detail = [isNumber(burn) ? h("div", null, words.burn(plain(burn))) : null, covered < minutes * 57 ? h("div", null, words.covered(milliseconds(covered * 1_000))) : null];
  return figure(span(minutes), shown, { level: left <= 0 ? "bad" : left < 25 ? "warning" : "good", detail: shown.state === "none" ? null : detail });
}

/** @param {any} window @returns {import("../figures.js").Shown} */
function leftOf({ actual, error_budget_left: left }) {
  if (!isNumber(actual.availability)) return { state: "none" };
  return isNumber(left) ? { state: "value", text: percent(left / 100) } : { state: "unavailable", reason: words.noBudget };
}

/** @param {number} minutes */
const span = (minutes) => words.windows.find(([known]) => known === minutes)?.[1] ?? milliseconds(minutes * 60_000);

const COLUMNS = [
  column("target", words.columns.target, (row) => words.names[/** @type {"availability"} */ (row.name)] ?? row.name),
  column("promised", words.columns.promised, (row) => `${row.name === "availability" ? "≥" : "≤"} ${text(row.name, row.target)}`, { align: "right" }),
  column("actual", words.columns.actual, measured, { align: "right" }),
  column("kept", words.columns.kept, kept),
];

/** @param {any} row */
function measured({ name, actual }) {
  return isNumber(actual) ? text(name, actual) : h("span", { class: "quiet" }, name === "rto_minutes" ? NOTHING : texts.states.none);
}

/** @param {any} row */
function kept({ name, target, actual }) {
  if (!JUDGED.includes(name)) return h("span", { class: "quiet" }, words.shown);
  if (!isNumber(actual) || !isNumber(target)) return h("span", { class: "quiet" }, texts.states.none);
  return (name === "availability" ? actual >= target : actual <= target) ? tag("good", words.kept) : tag("bad", words.missed);
}

/** @param {string} name @param {number} value */
function text(name, value) {
  const format = FORMATS.find(([ending]) => name.endsWith(ending))?.[1];
  return format ? format(value) : `${Number(value.toFixed(3))} %`;
}
