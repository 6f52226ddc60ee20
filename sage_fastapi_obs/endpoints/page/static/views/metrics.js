/** Every metric there is; with a name in the address, its lines over time by any label, and its series. */

import { get } from "../api.js";
import { LineChart } from "../charts.js";
import { h, replace } from "../dom.js";
import { count, nothing, part, problem } from "../figures.js";
import { texts } from "../texts.js";
import { awaiting, choose, column, matches, numbers, poll, quiet, redraw, searchField, SortedTable, wordsOf } from "./redraw.js";
import { formatOf, labelsText } from "./units.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../api.js").Answer} Answer */

const words = texts.metrics;
const MOST_LINES = 4;

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  return context.rest ? showOne(place, context) : showAll(place, context);
}

/** @param {HTMLElement} place @param {Context} context */
function showAll(place, context) {
  const rows = new SortedTable(COLUMNS, { label: title, empty: words.empty, sort: { key: "name", descending: false } });
  const body = awaiting();
  let search = "";
  let silent = false;
  /** @type {Answer | null} */
  let answer = null;
  const draw = () => answer && redraw(body, part(answer, ({ metrics }) => {
    const found = metrics.filter((/** @type {any} */ metric) => (silent || metric.series) && hasWords(metric, search));
    return [h("p", { class: "quiet", role: "status" }, words.found(count(found.length), count(metrics.length))), rows.show(found)];
  }));
  const field = searchField(words.search, "", (text) => ((search = text), draw()));
  const box = h("input", { type: "checkbox", onchange: () => ((silent = box.checked), draw()) });
  replace(place, h("h1", null, title), h("div", { class: "controls" }, field, h("label", { class: "choice" }, box, " ", words.silent)), body);
  return poll(context, () => get("explorer", {}, { signal: context.signal }), (found) => ((answer = found), draw()));
}

/** @param {any} metric @param {string} search */
const hasWords = ({ name, help, type, unit, labels }, search) => matches(search, name, help, type, unit, ...labels);

const COLUMNS = [
  column("name", words.columns.name, nameOf, { sort: (metric) => metric.name }),
  wordsOf("type", words.columns.type, (metric) => metric.type),
  wordsOf("unit", words.columns.unit, (metric) => metric.unit),
  column("labels", words.columns.labels, (metric) => metric.labels.join(", ")),
  numbers("series", words.columns.series, (metric) => metric.series || null, (number) => (number === null ? texts.states.none : count(number))),
];

/** @param {any} metric */
function nameOf({ name, help, problem: silent }) {
  return [h("a", { href: `#/metrics/${encodeURIComponent(name)}` }, name), h("div", { class: "quiet help" }, help), silent ? problem(silent) : null];
}

/** @param {HTMLElement} place @param {Context} context */
function showOne(place, context) {
  const { rest: name, params, seconds, signal } = context;
  const chart = new LineChart({ label: name });
  const chosen = h("div", { class: "controls" });
  const over = h("section", { hidden: true }, chosen, chart.element, quiet(null));
  const above = awaiting();
  const below = h("div", { class: "stack" });
  /** @type {SortedTable | null} */
  let series = null;
  const seriesOf = (/** @type {any} */ metric) => (series ??= new SortedTable(columnsOf(metric), { label: words.now, empty: null })).show(metric.now);
  replace(place, h("div", null, h("a", { href: "#/metrics" }, words.all), h("h1", null, name)), above, over, below);
  const ask = () => get(`explorer/${encodeURIComponent(name)}`, { seconds, by: params.get("by"), statistic: params.get("statistic") }, { signal });
  const change = (/** @type {string} */ key, /** @type {string} */ value) => {
    const wanted = new URLSearchParams(params);
    if (value) wanted.set(key, value);
    else wanted.delete(key);
    context.go(`#/metrics/${encodeURIComponent(name)}?${wanted}`);
  };
  return poll(context, ask, (answer) => {
    redraw(above, part(answer, about));
    redraw(below, answer.state === "value" ? part(answer, (metric) => now(metric, seriesOf)) : null);
    over.hidden = answer.state !== "value" || !answer.value.past?.lines.length;
    if (over.hidden || answer.state !== "value") return;
    redraw(chosen, choices(answer.value, change));
    draw(chart, answer.value, /** @type {Element} */ (over.lastElementChild));
  });
}

/** @param {any} metric */
function about({ help, type, unit, series, problem: silent }) {
  return [h("p", null, help), quiet([type, unit, words.series(count(series))].filter(Boolean).join(" · ")), silent ? problem(silent) : null];
}

/** @param {any} metric @param {(key: string, value: string) => void} change */
function choices({ labels, by, statistic, statistics }, change) {
  const each = labels.length > 1 ? [[labels.join(","), words.each]] : [];
  const options = [["", words.total], ...labels.map((/** @type {string} */ label) => [label, label]), ...each];
  const named = statistics.map((/** @type {string} */ name) => [name, words.statistics[/** @type {"rate"} */ (name)] ?? name]);
  return [
    choose(words.by, options, by.join(","), (value) => change("by", value)),
    choose(words.statistic, named, statistic, (value) => change("statistic", value)),
  ];
}

/** @param {LineChart} chart @param {any} metric @param {Element} note */
function draw(chart, metric, note) {
  const { past, statistic } = metric;
  const cut = past.left_out + Math.max(0, past.lines.length - MOST_LINES);
  const lineOf = (/** @type {any} */ line) => ({ name: labelsText(line.labels) || statistic, values: line.values, isGroup: labelsText(line.labels) !== "" });
  chart.format = formatOf(metric, statistic);
  chart.update(past.time, past.lines.slice(0, MOST_LINES).map(lineOf));
  redraw(note, cut ? words.linesCut(count(cut)) : null);
}

/** @param {any} metric @param {(metric: any) => HTMLElement} seriesOf */
function now(metric, seriesOf) {
  if (!metric.now.length) return metric.problem ? null : nothing(texts.states.none, h("p", null, words.silentHint));
  const cut = metric.now_left_out ? quiet(words.seriesCut(count(metric.now_left_out))) : null;
  return h("section", null, h("h2", null, words.now), seriesOf(metric), cut);
}

/** @param {any} metric */
function columnsOf(metric) {
  const observed = metric.type === "histogram" || metric.type === "summary";
  const value = (/** @type {any} */ row) => row.value;
  return [
    ...metric.labels.map((/** @type {string} */ label) => wordsOf(label, label, (row) => row.labels[label] ?? "")),
    observed ? numbers("now", words.observations, value, count) : numbers("now", words.value, value, formatOf(metric)),
    ...(observed ? [numbers("mean", words.mean, mean, formatOf(metric))] : []),
  ];
}

/** @param {any} row */
const mean = ({ sum, value }) => (sum === null || !value ? null : sum / value);
