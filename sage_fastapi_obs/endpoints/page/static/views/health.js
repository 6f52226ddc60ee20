/** Health: the checks of the service, whether it gets traffic, and workers that do not work. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { count, figure, milliseconds, part, shownOf, tag } from "../figures.js";
import { texts } from "../texts.js";
import { awaiting, column, numbers, poll, redraw, SortedTable, wordsOf } from "./redraw.js";

const words = texts.health;
const LEVELS = /** @type {const} */ ({ pass: "good", fail: "bad", timeout: "bad" });

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const empty = [h("p", { class: "empty-title" }, words.empty), h("pre", null, words.example)];
  const checks = new SortedTable(COLUMNS, { label: words.checks, empty, sort: { key: "status", descending: false } });
  const body = awaiting();
  redraw(place, h("h1", null, title), body);
  const draw = (/** @type {any} */ health) => [figures(health), h("section", null, h("h2", null, words.checks), checks.show(health.checks))];
  return poll(context, () => get("health", {}, { signal: context.signal }), (answer) => redraw(body, part(answer, draw)));
}

/** @param {any} health */
function figures({ status, checks, active_alerts: alerts, workers }) {
  const text = words.states[/** @type {"healthy"} */ (status)];
  const failed = checks.filter((/** @type {any} */ check) => check.status !== "pass").length;
  const silent = [...(workers?.hanging ?? []), ...(workers?.stopped ?? [])];
  const reason = status === "degraded" && !failed && !alerts && !silent.length ? words.notJudged : null;
  const number = (/** @type {unknown} */ value) => shownOf({ value }, count);
  const bad = (/** @type {unknown} */ value) => (value ? "bad" : "neutral");
  return h("dl", { class: "figures" },
    figure(words.now, text ? { state: "value", text } : shownOf({}, String), { level: status === "healthy" ? "good" : "bad", detail: reason }),
    figure(words.failing, number(failed), { level: bad(failed), detail: words.of(count(checks.length)) }),
    figure(words.alerts, number(alerts), { level: bad(alerts), href: "#/alerts" }),
    workers && figure(words.workers, number(workers.running), { level: bad(silent.length), detail: silent.length && words.quiet(silent.join(", ")), href: "#/workers" }));
}

const COLUMNS = [
  wordsOf("name", words.columns.name, (check) => check.name),
  column("status", words.columns.status, resultOf, { sort: (check) => check.status }),
  column("critical", words.columns.critical, (check) => (check.critical ? words.critical : words.optional)),
  numbers("duration", words.columns.duration, (check) => check.duration_ms, milliseconds),
  column("error", words.columns.error, (check) => check.error ?? ""),
];

/** @param {any} check */
function resultOf(check) {
  const status = /** @type {"pass"} */ (check.status);
  return tag(LEVELS[status] ?? "warning", words.results[status] ?? String(status));
}
