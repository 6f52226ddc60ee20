/** Alert rules and how near each is to firing; with a name in the address, one rule over time. */

import { get } from "../api.js";
import { LineChart } from "../charts.js";
import { h, link } from "../dom.js";
import { ago, count, date, figure, isNumber, milliseconds, NOTHING, part, percent, plain, problem, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { awaiting, column, numbers, poll, quiet, redraw, SortedTable, wordsOf } from "./redraw.js";
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
  const path = ["rules", ...rest.split("/")].filter(Boolean).map(encodeURIComponent).join("/");
  return poll(context, () => get(path, rest ? { seconds } : {}, { signal }), draw);
}

/** @param {HTMLElement} place */
function showAll(place) {
  const empty = [h("p", { class: "empty-title" }, words.empty), h("p", null, words.emptyHint)];
  const rows = new SortedTable(COLUMNS, { label: title, empty, sort: { key: "near", descending: true } });
  const body = awaiting();
  redraw(place, h("h1", null, title), quiet(words.explain), body);
  return (/** @type {import("../api.js").Answer} */ answer) => redraw(body, part(answer, ({ rules }) => rows.show(rules)));
}

const COLUMNS = [
  column("state", words.columns.state, stateOf, { sort: (rule) => -STATES.indexOf(rule.state) }),
  column("rule", words.columns.rule, nameOf, { sort: (rule) => rule.name }),
  column("value", words.columns.value, (rule) => (isNumber(rule.value) ? plain(rule.value) : missing()), { align: "right" }),
  column("threshold", words.columns.threshold, (rule) => `${rule.condition} ${plain(rule.threshold)}`, { align: "right" }),
  column("near", words.columns.near, nearness, { sort: order }),
  column("for", words.columns.for, (rule) => waiting(rule.for_seconds), { sort: (rule) => rule.for_seconds, align: "right" }),
  wordsOf("severity", words.columns.severity, (rule) => rule.severity),
];

const missing = () => h("span", { class: "quiet" }, texts.states.none);

/** @param {number} seconds */
const waiting = (seconds) => (seconds ? milliseconds(seconds * 1_000) : words.atOnce);

/** @param {any} rule */
function nameOf(rule) {
  return [h("a", { href: `#/alerts/${encodeURIComponent(rule.name)}` }, rule.name), rule.problem ? problem(rule.problem) : null];
}

/** @param {any} rule */
function stateOf({ state, since, for_seconds: wait }) {
  return [tag(levelOf(state), stateName(state)), since ? h("div", { class: "quiet" }, sinceText(state, secondsSince(since), wait)) : null];
}

/** @param {string} state @param {number} age @param {number} wait seconds */
const sinceText = (state, age, wait) => (state === "pending" && wait ? words.firesIn(milliseconds(Math.max(0, wait - age) * 1_000)) : ago(age));

/** @param {string} timestamp */
const secondsSince = (timestamp) => (Date.now() - Date.parse(timestamp)) / 1_000;

/** @param {string} state */
const levelOf = (state) => (state === "firing" ? "bad" : state === "pending" ? "warning" : "neutral");

/** @param {string} state */
const stateName = (state) => words.states[/** @type {"firing"} */ (state)] ?? String(state);

// What fires is first, then what is nearest to it.
/** @param {any} rule */
function order(rule) {
  const share = shareOf(rule);
  const state = { firing: 20, pending: 10 }[/** @type {string} */ (rule.state)];
  return state === undefined ? share : state + (share ?? 0);
}

// How much of the way to the threshold there is, 0 to 1; null where that cannot be said.
/** @param {any} rule */
function shareOf({ condition, value, threshold, problem: silent }) {
  if (silent || !isNumber(value) || !isNumber(threshold) || !["<", ">"].includes(condition[0])) return null;
  const [part, whole] = condition[0] === ">" ? [value, threshold] : [threshold, value];
  if (part > whole) return 1;
  return whole > 0 ? Math.max(0, part / whole) : null;
}

/** @param {any} rule */
function nearness(rule) {
  const share = shareOf(rule);
  if (share === null) return NOTHING;
  return h("span", { class: "near" }, h("meter", { value: share, max: 1, "aria-label": words.near(percent(share)) }), " ", percent(share));
}

/** @param {HTMLElement} place @param {string} name */
function showRule(place, name) {
  const chart = new LineChart({ label: words.figure, format: plain });
  const over = h("section", { hidden: true }, chart.element, quiet(null));
  const above = awaiting();
  const below = h("div", { class: "stack" });
  redraw(place, h("div", null, h("a", { href: "#/alerts" }, words.all), h("h1", null, name)), above, over, below);
  return (/** @type {import("../api.js").Answer} */ answer) => {
    redraw(above, part(answer, now));
    redraw(below, answer.state === "value" ? part(answer, past) : null);
    over.hidden = answer.state !== "value" || !answer.value.past;
    if (answer.state === "value" && !over.hidden) draw(chart, answer.value, /** @type {Element} */ (over.lastElementChild));
  };
}

/** @param {LineChart} chart @param {any} rule @param {Element} note */
function draw(chart, { past: { time, lines, left_out: more }, threshold }, note) {
  const cut = more + Math.max(0, lines.length - MOST_LINES);
  chart.limit = threshold;
  chart.update(time, lines.slice(0, MOST_LINES).map(lineOf));
  redraw(note, words.line(plain(threshold)), cut ? ` ${texts.metrics.linesCut(count(cut))}` : null);
}

/** @param {{labels: Record<string, string>, values: (number | null)[]}} line */
const lineOf = ({ labels, values }) => ({ name: labelsText(labels) || words.columns.value, values, isGroup: labelsText(labels) !== "" });

/** @param {any} rule */
function now(rule) {
  return [
    rule.summary ? h("p", null, rule.summary) : null,
    rule.description ? quiet(rule.description) : null,
    rule.problem && isNumber(rule.value) ? problem(rule.problem) : null,
    figures(rule),
    rule.by.length && rule.alerts.length ? table(ALERTS, rule.alerts, { label: words.groups }) : null,
  ];
}

/** @param {any} rule */
function figures(rule) {
  const value = (/** @type {string} */ text) => /** @type {Shown} */ ({ state: "value", text });
  const age = rule.since ? sinceText(rule.state, secondsSince(rule.since), rule.for_seconds) : null;
  const until = isNumber(rule.resolve_threshold) ? words.until(plain(rule.resolve_threshold)) : null;
  return h("dl", { class: "figures" },
    figure(words.columns.state, value(stateName(rule.state)), { level: levelOf(rule.state), detail: age }),
    figure(words.columns.value, valueOf(rule), { detail: rule.by.length ? words.nearest(rule.by.join(", ")) : null }),
    figure(words.columns.threshold, value(`${rule.condition} ${plain(rule.threshold)}`), { detail: until }),
    figure(words.columns.for, value(waiting(rule.for_seconds)), { detail: words.window(milliseconds(rule.window_seconds * 1_000)) }));
}

/** @param {any} rule @returns {Shown} */
function valueOf({ value, problem: silent }) {
  if (isNumber(value)) return { state: "value", text: plain(value) };
  return silent ? { state: "unavailable", reason: silent } : { state: "none" };
}

const ALERTS = [
  column("state", words.columns.state, stateOf),
  column("labels", words.labels, (alert) => labelsText(alert.labels)),
  numbers("value", words.columns.value, (alert) => alert.current_value, plain),
];

/** @param {any} rule */
function past(rule) {
  const pair = (/** @type {string} */ name, /** @type {import("../dom.js").Child} */ value) => [h("dt", null, name), h("dd", null, value)];
  return [
    h("section", null, h("h2", null, words.past), verdict(rule)),
    h("section", null, h("h2", null, words.definition), h("dl", { class: "pairs" },
      rule.expression ? pair(words.expression, h("pre", null, rule.expression)) : null,
      pair(words.columns.severity, rule.severity),
      pair(words.receivers, rule.receivers.join(", ") || words.nobody),
      pair(words.runbook, link(rule.runbook)))),
  ];
}

/** @param {any} rule */
function verdict({ problem: silent, past: found, firings, firings_left_out }) {
  if (silent) return problem(silent);
  if (!found.lines.length && !firings.length) return quiet(texts.states.none);
  if (!firings.length) return h("p", null, words.never);
  return [h("p", null, words.fired(count(firings.length + firings_left_out))), table(FIRINGS, firings, { label: words.past })];
}

const FIRINGS = [
  column("began", words.began, (one) => date(one.began)),
  column("length", words.length, (one) => (isNumber(one.ended) ? milliseconds((one.ended - one.began) * 1_000) : words.still), { align: "right" }),
  column("labels", words.labels, (one) => labelsText(one.labels) || NOTHING),
];
