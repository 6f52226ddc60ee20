/** Health: the checks of the service, whether it gets traffic, and workers that do not work. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { count, figure, milliseconds, part, tag } from "../figures.js";
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
  const failed = checks.filter((/** @type {any} */ check) => check.status !== "pass").length;
  const silent = [...(workers?.hanging ?? []), ...(workers?.stopped ?? [])];
  const bad = (/** @type {unknown} */ number) => (number ? "bad" : "neutral");
  const unknown = status === "degraded" && !failed && !alerts && !silent.length;
  return h("dl", { class: "figures" },
    figure(words.now, shown(status, (name) => words.states[/** @type {"healthy"} */ (name)]), { level: status === "healthy" ? "good" : "bad", detail: unknown ? words.notJudged : null }),
    figure(words.failing, shown(failed, count), { level: bad(failed), detail: words.of(count(checks.length)) }),
    figure(words.alerts, shown(alerts, count), { level: bad(alerts), href: "#/alerts" }),
    workers ? figure(words.workers, shown(workers.running, count), { level: bad(silent.length), detail: silent.length ? words.quiet(silent.join(", ")) : null, href: "#/workers" }) : null);
}

/**
 * A value that has a text, or that it is missing.
 * @param {any} value @param {(value: any) => string | undefined} format @returns {import("../figures.js").Shown}
 */
function shown(value, format) {
  const text = value === undefined || value === null ? undefined : format(value);
  return text === undefined ? { state: "unavailable", reason: texts.reasons.absent } : { state: "value", text };
}

const COLUMNS = [
  wordsOf("name", words.columns.name, (check) => check.name),
  column("status", words.columns.status, ({ status }) => tag(LEVELS[/** @type {"pass"} */ (status)] ?? "warning", words.results[/** @type {"pass"} */ (status)] ?? status), { sort: (check) => check.status }),
  column("critical", words.columns.critical, (check) => (check.critical ? words.critical : words.optional)),
  numbers("duration", words.columns.duration, (check) => check.duration_ms, milliseconds),
  column("error", words.columns.error, (check) => check.error ?? ""),
];
