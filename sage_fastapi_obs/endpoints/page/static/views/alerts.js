/** Alert rules and how near each is to firing; with a name in the address, one rule over time. */

import { get } from "../api.js";
import { LineChart } from "../charts.js";
import { h } from "../dom.js";
import { ago, count, date, figure, isNumber, milliseconds, NOTHING, part, percent, plain, problem, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { poll, redraw, SortedTable } from "./redraw.js";
import { labelsText } from "./units.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../figures.js").Shown} Shown */

const words = texts.alerts;
const MOST_LINES = 4;
const STATES = /** @type {const} */ (["firing", "pending", "resolved", "inactive"]);

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  const { rest, seconds, signal } = context;
  const draw = rest ? showRule(place, rest) : showAll(place);
  return poll(context, () => (rest ? get(`rules/${rest.split("/").map(encodeURIComponent).join("/")}`, { seconds }, { signal }) : get("rules", {}, { signal })), draw);
}

/** @param {HTMLElement} place */
function showAll(place) {
  const rows = new SortedTable(COLUMNS, { label: title, empty: [h("p", { class: "empty-title" }, words.empty), h("p", null, words.emptyHint)], sort: { key: "near", descending: true } });
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  redraw(place, h("h1", null, title), h("p", { class: "quiet" }, words.explain), body);
  return (/** @type {import("../api.js").Answer} */ answer) => redraw(body, part(answer, ({ rules }) => [summary(rules), rows.show(rules)]));
}

/** @param {any[]} rules */
function summary(rules) {
  if (!rules.length) return null;
  const number = (/** @type {string} */ state) => rules.filter((rule) => rule.state === state).length;
  const shown = (/** @type {string} */ state) => /** @type {Shown} */ ({ state: "value", text: count(number(state)) });
  const silent = rules.filter((rule) => rule.problem).length;
  return h("dl", { class: "figures" },
    figure(words.states.firing, shown("firing"), { level: number("firing") ? "bad" : "neutral" }),
    figure(words.states.pending, shown("pending"), { level: number("pending") ? "warning" : "neutral" }),
    figure(words.states.resolved, shown("resolved")),
    figure(words.silent, { state: "value", text: count(silent) }, { level: silent ? "warning" : "neutral" }));
}

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "state", title: words.columns.state, sort: (rule) => -STATES.indexOf(rule.state), cell: stateOf },
  { key: "rule", title: words.columns.rule, sort: (rule) => rule.name, cell: (rule) => [h("a", { href: `#/alerts/${encodeURIComponent(rule.name)}` }, rule.name), rule.problem ? problem(rule.problem) : null] },
  { key: "value", title: words.columns.value, align: "right", cell: (rule) => (isNumber(rule.value) ? plain(rule.value) : h("span", { class: "quiet" }, texts.states.none)) },
  { key: "threshold", title: words.columns.threshold, align: "right", cell: (rule) => `${rule.condition} ${plain(rule.threshold)}` },
  { key: "near", title: words.columns.near, sort: order, cell: nearness },
  { key: "for", title: words.columns.for, align: "right", sort: (rule) => rule.for_seconds, cell: (rule) => (rule.for_seconds ? milliseconds(rule.for_seconds * 1_000) : words.atOnce) },
  { key: "severity", title: words.columns.severity, sort: (rule) => rule.severity, cell: (rule) => rule.severity },
];

/** @param {any} rule */
function stateOf({ state, since, for_seconds: wait }) {
  const level = /** @type {const} */ ({ firing: "bad", pending: "warning" })[/** @type {"firing" | "pending"} */ (state)] ?? "neutral";
  const age = since ? Date.now() / 1_000 - Date.parse(since) / 1_000 : null;
  const said = age === null ? null : state === "pending" && wait ? words.firesIn(milliseconds(Math.max(0, wait - age) * 1_000)) : ago(age);
  return [tag(level, stateName(state)), said && h("div", { class: "quiet" }, said)];
}

/** @param {string} state */
const stateName = (state) => words.states[/** @type {"firing"} */ (state)] ?? String(state);

/**
 * What fires is first, then what is nearest to it.
 * @param {any} rule
 */
function order(rule) {
  const share = shareOf(rule);
  return share === null && rule.state === "inactive" ? null : (3 - STATES.indexOf(rule.state)) * 10 + (share ?? 0);
}

/**
 * How much of the way to the threshold there is, 0 to 1; null where that cannot be said.
 * @param {any} rule
 */
function shareOf({ condition, value, threshold, problem: silent }) {
  if (silent || !isNumber(value) || !isNumber(threshold) || !["<", ">"].includes(condition[0])) return null;
  const [part, whole] = condition[0] === ">" ? [value, threshold] : [threshold, value];
  if (part > whole) return 1;
  return whole > 0 ? Math.max(0, part / whole) : null;
}

/** @param {any} rule */
function nearness(rule) {
  const share = shareOf(rule);
  return share === null ? NOTHING : h("span", { class: "near" }, h("meter", { value: share, max: 1, "aria-label": words.near(percent(share)) }), " ", percent(share));
}

/** @param {HTMLElement} place @param {string} name */
function showRule(place, name) {
  const chart = new LineChart({ label: words.figure, format: plain });
  const over = h("section", { hidden: true }, chart.element, h("p", { class: "quiet" }));
  const above = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  const below = h("div", { class: "stack" });
  redraw(place, h("div", null, h("a", { href: "#/alerts" }, words.all), h("h1", null, name)), above, over, below);
  return (/** @type {import("../api.js").Answer} */ answer) => {
    redraw(above, part(answer, now));
    redraw(below, answer.state === "value" ? part(answer, past) : null);
    over.hidden = answer.state !== "value" || !answer.value.past;
    if (answer.state !== "value" || over.hidden) return;
    const { past: found, threshold } = answer.value;
    chart.limit = threshold;
    const cut = found.left_out + Math.max(0, found.lines.length - MOST_LINES);
    chart.update(found.time, found.lines.slice(0, MOST_LINES).map((/** @type {any} */ line) => ({ name: labelsText(line.labels) || words.columns.value, values: line.values })));
    redraw(/** @type {Element} */ (over.lastElementChild), words.line(plain(threshold)), cut ? ` ${texts.metrics.linesCut(count(cut))}` : null);
  };
}

/** @param {any} rule */
function now(rule) {
  const value = /** @type {Shown} */ (isNumber(rule.value) ? { state: "value", text: plain(rule.value) } : rule.problem ? { state: "unavailable", reason: rule.problem } : { state: "none" });
  const state = /** @type {Shown} */ ({ state: "value", text: stateName(rule.state) });
  const alerts = rule.alerts.filter((/** @type {any} */ alert) => Object.keys(alert.labels).length);
  return [
    rule.summary ? h("p", null, rule.summary) : null,
    rule.description ? h("p", { class: "quiet" }, rule.description) : null,
    rule.problem && isNumber(rule.value) ? problem(rule.problem) : null,
    h("dl", { class: "figures" },
      figure(words.columns.state, state, { level: rule.state === "firing" ? "bad" : rule.state === "pending" ? "warning" : "neutral", detail: rule.since ? ago(Date.now() / 1_000 - Date.parse(rule.since) / 1_000) : null }),
      figure(words.columns.value, value, { detail: rule.by.length ? words.nearest(rule.by.join(", ")) : null }),
      figure(words.columns.threshold, { state: "value", text: `${rule.condition} ${plain(rule.threshold)}` }, { detail: isNumber(rule.resolve_threshold) ? words.until(plain(rule.resolve_threshold)) : null }),
      figure(words.columns.for, { state: "value", text: rule.for_seconds ? milliseconds(rule.for_seconds * 1_000) : words.atOnce }, { detail: words.window(milliseconds(rule.window_seconds * 1_000)) })),
    alerts.length ? table(ALERTS, alerts, { label: words.groups }) : null,
  ];
}

/** @type {import("../table.js").Column[]} */
const ALERTS = [
  { key: "state", title: words.columns.state, cell: stateOf },
  { key: "labels", title: words.labels, cell: (alert) => labelsText(alert.labels) },
  { key: "value", title: words.columns.value, align: "right", cell: (alert) => plain(alert.current_value) },
];

/** @param {any} rule */
function past(rule) {
  return [
    h("section", null, h("h2", null, words.past), verdict(rule)),
    h("section", null, h("h2", null, words.definition), h("dl", { class: "pairs" },
      rule.expression ? [h("dt", null, words.expression), h("dd", null, h("pre", null, rule.expression))] : null,
      h("dt", null, words.columns.severity), h("dd", null, rule.severity),
      h("dt", null, words.receivers), h("dd", null, rule.receivers.join(", ") || words.nobody),
      h("dt", null, words.runbook), h("dd", null, link(rule.runbook)))),
  ];
}

/** @param {any} rule */
function verdict({ problem: silent, past: found, firings, firings_left_out }) {
  if (silent) return problem(silent);
  if (!found.lines.length && !firings.length) return h("p", { class: "quiet" }, texts.states.none);
  if (!firings.length) return h("p", null, words.never);
  return [h("p", null, words.fired(count(firings.length + firings_left_out))), table(FIRINGS, firings, { label: words.past })];
}

/** @type {import("../table.js").Column[]} */
const FIRINGS = [
  { key: "began", title: words.began, cell: (one) => date(one.began) },
  { key: "length", title: words.length, align: "right", cell: (one) => (isNumber(one.ended) ? milliseconds((one.ended - one.began) * 1_000) : words.still) },
  { key: "labels", title: words.labels, cell: (one) => labelsText(one.labels) || NOTHING },
];

/** @param {string} address a link only where a browser should follow it */
const link = (address) => (/^https?:\/\//.test(address) ? h("a", { href: address, rel: "noreferrer" }, address) : address);
