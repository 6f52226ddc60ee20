/** How the service is doing now and over time, and why requests were slow or failed. */

import { get } from "../api.js";
import { Axis, LineChart } from "../charts.js";
import { h, replace } from "../dom.js";
import { bytes, count, factor, figure, isNumber, milliseconds, nothing, part, percent, rate, shownOf, statusLevel, tag } from "../figures.js";
import { texts } from "../texts.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../api.js").Answer} Answer */
/** @typedef {import("../dom.js").Child} Child */
/** @typedef {import("../figures.js").Shown} Shown */
/** @typedef {import("../figures.js").Level} Level */

const words = texts.overview;
const MOST_REASONS = 8;
const REASONS_MS = 5_000;

export const title = words.title;

/** @type {{label: string, format: (value: unknown) => string, names: [string, string][]}[]} */
const CHARTS = [
  { label: words.traffic, format: rate, names: [["requests_per_second", words.rate], ["errors_per_second", words.errors]] },
  { label: words.latency, format: milliseconds, names: [["p50_ms", words.p50], ["p95_ms", words.p95], ["p99_ms", words.p99]] },
  { label: words.inFlight, format: count, names: [["in_flight", words.inFlight]] },
  { label: words.loop, format: milliseconds, names: [["loop_lag_ms", words.loop]] },
  { label: words.cpu, format: percent, names: [["cpu_share", words.cpu]] },
  { label: words.memory, format: bytes, names: [["memory_bytes", words.memory]] },
];

/** @param {HTMLElement} place @param {Context} context */
export function show(place, { live, signal }) {
  const figures = h("div", null, h("p", { class: "quiet" }, texts.page.loading));
  const reasons = h("div");
  const charts = overTime();
  const head = h("div", { class: "row" }, h("h2", null, words.why), h("a", { href: "#/requests" }, words.all));
  replace(place, h("h1", null, title), figures, charts.above, h("section", null, head, reasons), charts.below);
  /** @type {Answer | null} */
  let shown = null;
  const stop = live.subscribe(({ answer }) => {
    if (answer === null || answer === shown) return;
    shown = answer;
    charts.update(null);
    const render = (/** @type {any} */ overview) => (charts.update(isFresh(overview) ? null : overview.series), figuresOf(overview));
    replace(figures, part(answer, render));
  });
  const again = setInterval(() => live.state === "live" && showReasons(reasons, signal), REASONS_MS);
  showReasons(reasons, signal);
  return () => (stop(), clearInterval(again));
}

/** Build all charts, in two groups; without series they are not shown. */
function overTime() {
  const axis = new Axis();
  const charts = CHARTS.map((chart) => ({ ...chart, chart: new LineChart({ ...chart, axis }) }));
  const [above, below] = [charts.slice(0, 2), charts.slice(2)].map((some) =>
    h("section", { "aria-label": words.charts, hidden: true, class: "charts" }, some.map(({ chart }) => chart.element)),
  );
  const update = (/** @type {any} */ series) => {
    for (const section of [above, below]) if (section) section.hidden = !series;
    if (!series) return;
    for (const { chart, names } of charts) chart.update(series.time ?? [], names.map(([key, name]) => ({ name, values: series[key] ?? [] })));
  };
  return { above, below, update };
}

// Whether nobody has asked anything yet.
/** @param {any} overview */
function isFresh({ series, figures }) {
  const rates = [...(series?.requests_per_second ?? []), figures.requests_per_second?.value];
  return !rates.some((value) => isNumber(value) && value > 0);
}

/** @param {any} overview */
function figuresOf(overview) {
  const { figures, health, alerts, budgets, workers } = overview;
  return [
    isFresh(overview) ? fresh() : null,
    h("dl", { class: "figures" }, trafficOf(figures)),
    h("dl", { class: "figures states" },
      figure(words.health, ...healthOf(health)),
      figure(words.alerts, ...alertsOf(alerts)),
      figure(words.budget, ...budgetOf(budgets)),
      figure(words.workers, ...workersOf(workers)),
    ),
    h("dl", { class: "figures" }, saturationOf(figures)),
  ];
}

/** @param {any} of */
function trafficOf(of) {
  const failed = of.errors_per_second?.value;
  const errors = { level: levelOf(of.error_share, 0.01, 0.05), detail: failed > 0 ? words.perSecond(rate(failed)) : null };
  return [
    figure(words.rate, shownOf(of.requests_per_second, rate)),
    figure(words.errors, shownOf(of.error_share, percent), errors),
    figure(words.p50, shownOf(of.p50_ms, milliseconds)),
    figure(words.p95, shownOf(of.p95_ms, milliseconds)),
    figure(words.p99, shownOf(of.p99_ms, milliseconds)),
    figure(words.inFlight, shownOf(of.in_flight, count)),
  ];
}

/** @param {any} of */
function saturationOf(of) {
  const limit = of.threads_limit?.value;
  return [
    figure(words.loop, shownOf(of.loop_lag_ms, milliseconds), { level: levelOf(of.loop_lag_ms, 50, 250) }),
    figure(words.cpu, shownOf(of.cpu_share, percent), { level: levelOf(of.cpu_share, 0.8, 0.95) }),
    figure(words.memory, shownOf(of.memory_bytes, bytes)),
    figure(words.threads, shownOf(of.threads_busy, count), { detail: isNumber(limit) ? words.ofThreads(count(limit)) : null }),
    figure(words.pools, shownOf(of.pool_use, percent), { level: levelOf(of.pool_use, 0.8, 1) }),
  ];
}

// A level only where there is something to say against a figure.
/** @param {any} source @param {number} warning @param {number} bad @returns {Level} */
function levelOf(source, warning, bad) {
  if (!isNumber(source?.value) || source.value < warning) return "neutral";
  return source.value >= bad ? "bad" : "warning";
}

/** @typedef {[Shown, {level?: Level, detail?: Child, href?: string}]} Known */

/** @returns {Known} */
const absent = () => [{ state: "unavailable", reason: texts.reasons.absent }, {}];

/** @param {any} source @returns {Known} */
function healthOf(source) {
  if (source?.status !== "healthy" && source?.status !== "degraded") return absent();
  const failed = (source.checks ?? []).filter((/** @type {any} */ check) => check.status !== "pass").length;
  const text = source.status === "healthy" ? words.healthy : words.degraded;
  const detail = failed ? words.checks(failed) : null;
  return [{ state: "value", text }, { level: source.status === "healthy" ? "good" : "warning", detail, href: "#/health" }];
}

/** @param {any} source @returns {Known} */
function alertsOf(source) {
  if (!Array.isArray(source)) return absent();
  const detail = source.slice(0, 3).map((alert) => h("div", null, alert.name));
  return [{ state: "value", text: count(source.length) }, { level: source.length ? "bad" : "neutral", detail, href: "#/alerts" }];
}

// What is left of the budget that is used up most; in percent.
/** @param {any} source @returns {Known} */
function budgetOf(source) {
  if (!Array.isArray(source)) return absent();
  const left = source.map((budget) => budget?.error_budget_left).filter(isNumber);
  if (!left.length) return [{ state: "none" }, { href: "#/levels" }];
  const least = Math.min(...left);
  if (least <= 0) return [{ state: "value", text: words.spent }, { level: "bad", detail: words.overspent(factor(1 - least / 100)), href: "#/levels" }];
  return [{ state: "value", text: percent(least / 100) }, { level: least < 25 ? "warning" : "neutral", href: "#/levels" }];
}

/** @param {any} source @returns {Known} */
function workersOf(source) {
  if (!isNumber(source?.count)) return absent();
  const detail = isNumber(source.leader) ? words.leader(source.leader) : null;
  return [{ state: "value", text: count(source.count) }, { detail, href: "#/workers" }];
}

function fresh() {
  return nothing(words.fresh, h("ol", null, words.freshSteps.map((step) => h("li", null, step))));
}

/** @param {HTMLElement} place @param {AbortSignal} signal */
async function showReasons(place, signal) {
  const questions = [{ failed: true }, { kept: "slow" }].map((which) => get("requests", { ...which, limit: MOST_REASONS }, { signal }));
  const answers = await Promise.all(questions);
  if (signal.aborted) return;
  const refused = answers.find(({ state }) => state === "unavailable");
  const found = answers.flatMap((answer) => (answer.state === "value" ? answer.value.requests : []));
  replace(place, part(refused ?? { state: "value", value: found }, reasonsOf));
}

/** @param {any[]} found */
function reasonsOf(found) {
  const once = [...new Map(found.map((request) => [request.key, request])).values()];
  const newest = once.sort((one, other) => other.timestamp.localeCompare(one.timestamp)).slice(0, MOST_REASONS);
  return newest.length ? h("ul", { class: "reasons" }, newest.map(reason)) : h("p", { class: "quiet" }, words.noneSlow);
}

/** @param {any} request */
function reason({ key, method, route, path, status, duration_ms, why }) {
  return h("li", null,
    h("a", { href: `#/requests/${encodeURIComponent(key)}` }, h("span", { class: "method" }, method), " ", route ?? path),
    h("span", null, tag(statusLevel(status), status)),
    h("span", { class: "number" }, milliseconds(duration_ms)),
    h("span", { class: "why" }, why ?? words.noReason),
  );
}
