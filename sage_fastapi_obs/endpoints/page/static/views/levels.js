/** Service levels: whether the promises are kept, and how much of the error budget is left. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { figure, isNumber, milliseconds, NOTHING, nothing, part, percent, plain, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { choose, poll, redraw } from "./redraw.js";

/** @typedef {import("./index.js").Context} Context */

const words = texts.sla;
const FORMATS = /** @type {[string, (value: number) => string][]} */ ([["_ms", milliseconds], ["_minutes", (value) => milliseconds(value * 60_000)]]);
const JUDGED = ["availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms"];

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  const source = context.params.get("source") === "result" ? "result" : "http";
  redraw(place, h("div", { class: "row" }, h("h1", null, title), choose(words.source, words.sources, source, (chosen) => context.go(`#/levels?source=${chosen}`))), body);
  return poll(context, () => budgets(source, context), (answer) => redraw(body, part(answer, (found) => levels(found))));
}

/**
 * Ask for all windows; one that cannot be read makes the whole not readable.
 * @param {string} source @param {Context} context @returns {Promise<import("../api.js").Answer>}
 */
async function budgets(source, { seconds, signal }) {
  const windows = [...new Set([Math.max(1, Math.round(seconds / 60)), ...words.windows.map(([minutes]) => minutes)])].sort((one, other) => one - other);
  const answers = await Promise.all(windows.map((minutes) => get("sla", { minutes, source }, { signal })));
  return answers.find(({ state }) => state === "unavailable") ?? { state: "value", value: { chosen: Math.max(1, Math.round(seconds / 60)), each: answers.map((answer) => (answer.state === "value" ? answer.value : null)) } };
}

/** @param {{chosen: number, each: any[]}} found */
function levels({ chosen, each }) {
  const window = each.find(({ minutes }) => minutes === chosen) ?? each[0];
  const targets = Object.keys(window.targets).filter((name) => window.targets[name] !== null);
  if (!targets.length) return nothing(words.empty, h("p", null, words.emptyHint));
  return [
    h("section", null, h("h2", null, words.budget), h("dl", { class: "figures" }, each.map(budget)), h("p", { class: "quiet" }, words.budgetExplain)),
    h("section", null, h("h2", null, words.targets(span(window.minutes))), table(COLUMNS, targets.map((name) => ({ name, target: window.targets[name], actual: window.actual[name] ?? null })), { label: title })),
  ];
}

/** @param {any} window */
function budget({ minutes, error_budget_left: left, burn_rate: burn, actual, covered_seconds: covered }) {
  const empty = actual.availability === null;
  const shown = /** @type {import("../figures.js").Shown} */ (empty || !isNumber(left) ? (empty ? { state: "none" } : { state: "unavailable", reason: words.noBudget }) : { state: "value", text: percent(left / 100) });
  return figure(span(minutes), shown, { level: left <= 0 ? "bad" : left < 25 ? "warning" : "good", detail: empty ? null : [isNumber(burn) ? h("div", null, words.burn(plain(burn))) : null, covered < minutes * 57 ? h("div", null, words.covered(milliseconds(covered * 1_000))) : null] });
}

/** @param {number} minutes */
const span = (minutes) => words.windows.find(([known]) => known === minutes)?.[1] ?? milliseconds(minutes * 60_000);

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "target", title: words.columns.target, cell: (row) => words.names[/** @type {"availability"} */ (row.name)] ?? row.name },
  { key: "promised", title: words.columns.promised, align: "right", cell: (row) => `${sign(row.name)} ${text(row.name, row.target)}` },
  { key: "actual", title: words.columns.actual, align: "right", cell: (row) => (isNumber(row.actual) ? text(row.name, row.actual) : h("span", { class: "quiet" }, row.name === "rto_minutes" ? NOTHING : texts.states.none)) },
  { key: "kept", title: words.columns.kept, cell: kept },
];

/** @param {string} name */
const sign = (name) => (name === "availability" ? "≥" : "≤");

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
