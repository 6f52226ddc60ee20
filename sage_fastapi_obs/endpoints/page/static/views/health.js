/** Health: the checks of the service, whether it gets traffic, and workers that do not work. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { count, figure, isNumber, milliseconds, part, tag } from "../figures.js";
import { texts } from "../texts.js";
import { poll, redraw, SortedTable } from "./redraw.js";

const words = texts.health;
const LEVELS = /** @type {const} */ ({ pass: "good", fail: "bad", timeout: "bad" });

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const checks = new SortedTable(COLUMNS, { label: words.checks, empty: [h("p", { class: "empty-title" }, words.empty), h("pre", null, words.example)], sort: { key: "status", descending: false } });
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  redraw(place, h("h1", null, title), body);
  return poll(context, () => get("health", {}, { signal: context.signal }), (answer) => redraw(body, part(answer, (health) => [figures(health), h("section", null, h("h2", null, words.checks), checks.show(health.checks))])));
}

/** @param {any} health */
function figures({ status, checks, active_alerts: alerts, workers }) {
  const failed = checks.filter((/** @type {any} */ check) => check.status !== "pass").length;
  const text = words.states[/** @type {"healthy"} */ (status)];
  const value = (/** @type {unknown} */ number) => /** @type {import("../figures.js").Shown} */ (isNumber(number) ? { state: "value", text: count(number) } : { state: "unavailable", reason: texts.reasons.absent });
  const quiet = [...(workers?.hanging ?? []), ...(workers?.stopped ?? [])];
  return h("dl", { class: "figures" },
    figure(words.now, text ? { state: "value", text } : { state: "unavailable", reason: texts.reasons.absent }, { level: status === "healthy" ? "good" : "bad", detail: status === "degraded" && !failed && !alerts && !quiet.length ? words.notJudged : null }),
    figure(words.failing, value(failed), { level: failed ? "bad" : "neutral", detail: words.of(count(checks.length)) }),
    figure(words.alerts, value(alerts), { level: alerts ? "bad" : "neutral", href: "#/alerts" }),
    workers ? figure(words.workers, value(workers.running), { level: quiet.length ? "bad" : "neutral", detail: quiet.length ? words.quiet(quiet.join(", ")) : null, href: "#/workers" }) : null);
}

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "name", title: words.columns.name, sort: (check) => check.name, cell: (check) => check.name },
  { key: "status", title: words.columns.status, sort: (check) => check.status, cell: (check) => tag(LEVELS[/** @type {"pass"} */ (check.status)] ?? "warning", words.results[/** @type {"pass"} */ (check.status)] ?? String(check.status)) },
  { key: "critical", title: words.columns.critical, cell: (check) => (check.critical ? words.critical : words.optional) },
  { key: "duration", title: words.columns.duration, align: "right", sort: (check) => check.duration_ms, cell: (check) => milliseconds(check.duration_ms) },
  { key: "error", title: words.columns.error, cell: (check) => check.error ?? "" },
];
