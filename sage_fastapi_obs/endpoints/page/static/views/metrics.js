/** Every metric there is; with a name in the address, its lines over time by any label, and its series. */

import { get } from "../api.js";
import { LineChart } from "../charts.js";
import { h, replace } from "../dom.js";
import { count, nothing, part, problem } from "../figures.js";
import { texts } from "../texts.js";
import { choose, matches, poll, redraw, searchField, SortedTable } from "./redraw.js";
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
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  let search = "";
  let silent = false;
  /** @type {Answer | null} */
  let answer = null;
  const draw = () => answer && redraw(body, part(answer, ({ metrics }) => {
    const found = metrics.filter((/** @type {any} */ metric) => (silent || metric.series) && matches(search, metric.name, metric.help, metric.type, metric.unit, ...metric.labels));
    return [h("p", { class: "quiet", role: "status" }, words.found(count(found.length), count(metrics.length))), rows.show(found)];
  }));
  const field = searchField(words.search, "", (text) => ((search = text), draw()));
  const box = h("input", { type: "checkbox", onchange: () => ((silent = box.checked), draw()) });
  replace(place, h("h1", null, title), h("div", { class: "controls" }, field, h("label", { class: "choice" }, box, " ", words.silent)), body);
  return poll(context, () => get("explorer", {}, { signal: context.signal }), (found) => ((answer = found), draw()));
}

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "name", title: words.columns.name, sort: (metric) => metric.name, cell: (metric) => [h("a", { href: `#/metrics/${encodeURIComponent(metric.name)}` }, metric.name), h("div", { class: "quiet help" }, metric.help), metric.problem ? problem(metric.problem) : null] },
  { key: "type", title: words.columns.type, sort: (metric) => metric.type, cell: (metric) => metric.type },
  { key: "unit", title: words.columns.unit, sort: (metric) => metric.unit, cell: (metric) => metric.unit },
  { key: "labels", title: words.columns.labels, cell: (metric) => metric.labels.join(", ") },
  { key: "series", title: words.columns.series, align: "right", sort: (metric) => metric.series, cell: (metric) => (metric.series ? count(metric.series) : h("span", { class: "quiet" }, texts.states.none)) },
];

/** @param {HTMLElement} place @param {Context} context */
function showOne(place, context) {
  const { rest: name, params, seconds, signal } = context;
  const chart = new LineChart({ label: name });
  const chosen = h("div", { class: "controls" });
  const over = h("section", { hidden: true }, chosen, chart.element, h("p", { class: "quiet" }));
  const above = h("div", null, h("p", { class: "quiet" }, texts.page.loading));
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
    redraw(above, part(answer, (metric) => [h("p", null, metric.help), h("p", { class: "quiet" }, [metric.type, metric.unit, words.series(count(metric.series))].filter(Boolean).join(" · ")), metric.problem ? problem(metric.problem) : null]));
    redraw(below, answer.state === "value" ? part(answer, (metric) => now(metric, seriesOf)) : null);
    over.hidden = answer.state !== "value" || !answer.value.past?.lines.length;
    if (over.hidden || answer.state !== "value") return;
    redraw(chosen, choices(answer.value, change));
    draw(chart, answer.value, /** @type {Element} */ (over.lastElementChild));
  });
}

/** @param {any} metric @param {(key: string, value: string) => void} change */
function choices({ labels, by, statistic, statistics }, change) {
  const options = [["", words.total], ...labels.map((/** @type {string} */ label) => [label, label]), ...(labels.length > 1 ? [[labels.join(","), words.each]] : [])];
  const named = statistics.map((/** @type {string} */ name) => [name, words.statistics[/** @type {"rate"} */ (name)] ?? name]);
  return [choose(words.by, options, by.join(","), (value) => change("by", value)), choose(words.statistic, named, statistic, (value) => change("statistic", value))];
}

/** @param {LineChart} chart @param {any} metric @param {Element} note */
function draw(chart, metric, note) {
  const { past, statistic } = metric;
  const cut = past.left_out + Math.max(0, past.lines.length - MOST_LINES);
  chart.format = formatOf(metric, statistic);
  chart.update(past.time, past.lines.slice(0, MOST_LINES).map((/** @type {any} */ line) => ({ name: labelsText(line.labels) || statistic, values: line.values })));
  redraw(note, cut ? words.linesCut(count(cut)) : null);
}

/** @param {any} metric @param {(metric: any) => HTMLElement} seriesOf */
function now(metric, seriesOf) {
  if (!metric.now.length) return metric.problem ? null : nothing(texts.states.none, h("p", null, words.silentHint));
  return h("section", null, h("h2", null, words.now), seriesOf(metric), metric.now_left_out ? h("p", { class: "quiet" }, words.seriesCut(count(metric.now_left_out))) : null);
}

/** @param {any} metric @returns {import("../table.js").Column[]} */
function columnsOf(metric) {
  const observed = metric.type === "histogram" || metric.type === "summary";
  const format = observed ? count : formatOf(metric);
  const right = /** @type {const} */ ("right");
  return [
    ...metric.labels.map((/** @type {string} */ label) => ({ key: label, title: label, sort: (/** @type {any} */ row) => row.labels[label] ?? "", cell: (/** @type {any} */ row) => row.labels[label] ?? "" })),
    { key: "now", title: observed ? words.observations : words.value, align: right, sort: (/** @type {any} */ row) => row.value, cell: (/** @type {any} */ row) => format(row.value) },
    ...(observed ? [{ key: "mean", title: words.mean, align: right, sort: mean, cell: (/** @type {any} */ row) => formatOf(metric)(mean(row)) }] : []),
  ];
}

/** @param {any} row */
const mean = ({ sum, value }) => (sum === null || !value ? null : sum / value);
