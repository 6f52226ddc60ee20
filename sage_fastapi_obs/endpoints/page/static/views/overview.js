/** How the service is doing now and over time, and why requests were slow or failed. */

import { get } from "../api.js";
import { Axis, LineChart } from "../charts.js";
import { h, replace } from "../dom.js";
import { bytes, count, figure, isNumber, milliseconds, nothing, part, percent, rate, shownOf, statusLevel, tag } from "../figures.js";
import { texts } from "../texts.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../figures.js").Shown} Shown */
/** @typedef {import("../figures.js").Level} Level */

const words = texts.overview;
const MOST_REASONS = 8;
const REASONS_MS = 5_000;

export const title = words.title;

/** @type {{title: string, format: (value: unknown) => string, names: [string, string][]}[]} */
const CHARTS = [
  { title: words.traffic, format: rate, names: [["requests_per_second", words.rate], ["errors_per_second", words.errors]] },
  { title: words.latency, format: milliseconds, names: [["p50_ms", words.p50], ["p95_ms", words.p95], ["p99_ms", words.p99]] },
  { title: words.inFlight, format: count, names: [["in_flight", words.inFlight]] },
  { title: words.loop, format: milliseconds, names: [["loop_lag_ms", words.loop]] },
  { title: words.cpu, format: percent, names: [["cpu_share", words.cpu]] },
  { title: words.memory, format: bytes, names: [["memory_bytes", words.memory]] },
];

/** @param {HTMLElement} place @param {Context} context */
export function show(place, { live, signal }) {
  const axis = new Axis();
  const charts = CHARTS.map((chart) => ({ ...chart, chart: new LineChart({ label: chart.title, format: chart.format, axis }) }));
  const figures = h("div", null, h("p", { class: "quiet" }, texts.page.loading));
  const reasons = h("div");
  const [traffic, latency, ...others] = charts.map(({ chart }) => chart.element);
  const over = [[traffic, latency], others].map((elements) => h("section", { "aria-label": words.charts, hidden: true, class: "charts" }, elements));
  const why = h("section", null, h("div", { class: "row" }, h("h2", null, words.why), h("a", { href: "#/requests" }, words.all)), reasons);
  replace(place, h("h1", null, title), figures, over[0], why, over[1]);
  /** @type {import("../api.js").Answer | null} */
  let shown = null;
  /** @param {import("../api.js").Answer} answer */
  function update(answer) {
    if (answer === shown) return;
    shown = answer;
    replace(figures, part(answer, figuresOf));
    const hidden = answer.state !== "value" || isFresh(answer.value);
    for (const section of over) section.hidden = hidden;
    if (!hidden && answer.state === "value") for (const { chart, names } of charts) chart.update(answer.value.series?.time ?? [], names.map(([name, label]) => ({ name: label, values: answer.value.series?.[name] ?? [] })));
  }
  const stop = live.subscribe(({ answer }) => answer && update(answer));
  const again = setInterval(() => live.state === "live" && showReasons(reasons, signal), REASONS_MS);
  showReasons(reasons, signal);
  return () => (stop(), clearInterval(again));
}

/**
 * Nobody asked anything yet.
 * @param {any} overview
 */
const isFresh = (overview) => !(overview.series?.requests_per_second ?? []).some((/** @type {unknown} */ value) => isNumber(value) && value > 0) && !(overview.figures?.requests_per_second?.value > 0);

/** @param {any} overview */
function figuresOf(overview) {
  const of = overview.figures;
  const row = (/** @type {import("../dom.js").Child[]} */ ...children) => h("dl", { class: "figures" }, children);
  return [
    isFresh(overview) ? fresh() : null,
    row(
      figure(words.rate, shownOf(of.requests_per_second, rate)),
      figure(words.errors, shownOf(of.error_share, percent), { level: levelOf(of.error_share, 0.01, 0.05), detail: isNumber(of.errors_per_second?.value) ? words.perSecond(rate(of.errors_per_second.value)) : null }),
      figure(words.p50, shownOf(of.p50_ms, milliseconds)),
      figure(words.p95, shownOf(of.p95_ms, milliseconds)),
      figure(words.p99, shownOf(of.p99_ms, milliseconds)),
      figure(words.inFlight, shownOf(of.in_flight, count)),
    ),
    row(figure(words.health, ...health(overview.health)), figure(words.alerts, ...alerts(overview.alerts)), figure(words.budget, ...budget(overview.budgets)), figure(words.workers, ...workers(overview.workers))),
    row(
      figure(words.loop, shownOf(of.loop_lag_ms, milliseconds), { level: levelOf(of.loop_lag_ms, 50, 250) }),
      figure(words.cpu, shownOf(of.cpu_share, percent), { level: levelOf(of.cpu_share, 0.8, 0.95) }),
      figure(words.memory, shownOf(of.memory_bytes, bytes)),
      figure(words.threads, shownOf(of.threads_busy, count), { detail: isNumber(of.threads_limit?.value) ? words.ofThreads(count(of.threads_limit.value)) : null }),
      figure(words.pools, shownOf(of.pool_use, percent), { level: levelOf(of.pool_use, 0.8, 1) }),
    ),
  ];
}

/**
 * A level only where there is something to say against it.
 * @param {any} source @param {number} warning @param {number} bad @returns {Level}
 */
const levelOf = (source, warning, bad) => (!isNumber(source?.value) ? "neutral" : source.value >= bad ? "bad" : source.value >= warning ? "warning" : "neutral");

/** @typedef {[Shown, {level?: Level, detail?: import("../dom.js").Child, href?: string}]} Known */

/** @returns {Known} */
const absent = () => [{ state: "unavailable", reason: texts.reasons.absent }, {}];

/** @param {any} source @returns {Known} */
function health(source) {
  if (source?.status !== "healthy" && source?.status !== "degraded") return absent();
  const failed = (source.checks ?? []).filter((/** @type {any} */ check) => check.status !== "pass").length;
  return [{ state: "value", text: words[/** @type {"healthy" | "degraded"} */ (source.status)] }, { level: source.status === "healthy" ? "good" : "warning", detail: failed ? words.checks(failed) : null, href: "#/health" }];
}

/** @param {any} source @returns {Known} */
function alerts(source) {
  if (!Array.isArray(source)) return absent();
  const names = source.slice(0, 3).map((alert) => h("div", null, alert.name));
  return [{ state: "value", text: count(source.length) }, { level: source.length ? "bad" : "neutral", detail: names, href: "#/alerts" }];
}

/** @param {any} source @returns {Known} */
function budget(source) {
  if (!Array.isArray(source)) return absent();
  const left = source.map((each) => each?.error_budget_left ?? each?.left).filter(isNumber);
  if (!left.length) return [{ state: "none" }, { href: "#/levels" }];
  const least = Math.min(...left);
  return [{ state: "value", text: percent(least / 100) }, { level: least <= 0 ? "bad" : least < 25 ? "warning" : "neutral", href: "#/levels" }];
}

/** @param {any} source @returns {Known} */
function workers(source) {
  if (!isNumber(source?.count)) return absent();
  return [{ state: "value", text: count(source.count) }, { detail: isNumber(source.leader) ? words.leader(source.leader) : null, href: "#/workers" }];
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
  replace(place, part(refused ?? { state: "value", value: answers.flatMap((answer) => (answer.state === "value" ? answer.value.requests : [])) }, reasonsOf));
}

/** @param {any[]} found */
function reasonsOf(found) {
  const requests = [...new Map(found.map((request) => [request.key, request])).values()].sort((one, other) => other.timestamp.localeCompare(one.timestamp)).slice(0, MOST_REASONS);
  if (!requests.length) return h("p", { class: "quiet" }, words.noneSlow);
  return h("ul", { class: "reasons" }, requests.map((/** @type {any} */ request) => h("li", null, h("a", { href: `#/requests/${encodeURIComponent(request.key)}` }, `${request.method} ${request.route ?? request.path}`), " ", tag(statusLevel(request.status), request.status), h("span", { class: "number" }, milliseconds(request.duration_ms)), h("span", { class: "why" }, request.why ?? words.noReason))));
}

