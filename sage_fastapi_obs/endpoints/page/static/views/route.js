/** One route: how fast it was and how often it failed, why it was slow, and its usual request beside its slowest. */

import { get } from "../api.js";
import { Axis, heatmap, LineChart } from "../charts.js";
import { h, replace } from "../dom.js";
import { count, figure, isNumber, milliseconds, nothing, part, percent, rate, statusLevel, tag, time } from "../figures.js";
import { texts } from "../texts.js";

/** @typedef {import("../api.js").Answer} Answer */
/** @typedef {import("../dom.js").Child} Child */

const words = texts.route;
const MOST_COMPARED = 200;

/**
 * Prepare the page of a route.
 * @param {HTMLElement} place
 * @param {string} name method and template
 * @returns {(answer: Answer) => void} shows what is known of it
 */
export function showRoute(place, name) {
  const axis = new Axis();
  const requests = new LineChart({ label: words.requests, format: rate, axis });
  const latency = new LineChart({ label: words.latency, format: milliseconds, axis });
  const charts = h("section", { class: "charts", "aria-label": words.latency, hidden: true }, latency.element, requests.element);
  const figures = h("div", null, h("p", { class: "quiet" }, texts.page.loading));
  const rest = h("div", { class: "stack" });
  const compared = h("section");
  replace(place, h("div", null, h("a", { href: "#/routes" }, words.all), h("h1", null, name)), figures, charts, rest, compared);
  showCompared(compared, name);
  return (answer) => {
    replace(figures, part(answer, figuresOf));
    replace(rest, answer.state === "value" ? part(answer, (detail) => restOf(detail, name)) : null);
    charts.hidden = answer.state !== "value" || !answer.value.route;
    if (charts.hidden || answer.state !== "value") return;
    const { time: times, series } = answer.value;
    latency.update(times, ["p50", "p95", "p99"].map((each) => ({ name: each, values: series[`${each}_ms`] })));
    requests.update(times, [{ name: words.requests, values: series.requests_per_second }]);
  };
}

/** @param {any} detail */
function figuresOf({ route, covered_seconds }) {
  if (!route) return nothing(words.empty, h("p", null, words.emptyHint));
  const shown = (/** @type {unknown} */ value, /** @type {(value: unknown) => string} */ format) => (isNumber(value) ? { state: /** @type {const} */ ("value"), text: format(value) } : { state: /** @type {const} */ ("none") });
  const seconds = (/** @type {unknown} */ value) => shown(isNumber(value) ? value * 1_000 : null, milliseconds);
  const { duration, error_ratio, failed } = route;
  return h("dl", { class: "figures" }, figure(words.requests, shown(covered_seconds > 0 ? route.count / covered_seconds : null, rate), { detail: words.count(count(route.count)) }), figure(words.errors, shown(error_ratio, percent), { level: failed ? "bad" : "neutral", detail: failed ? words.failed(count(failed)) : null }), ["p50", "p95", "p99", "max"].map((each) => figure(each, seconds(duration[each]))), figure(words.total, seconds(duration.sum)));
}

/** @param {any} detail @param {string} name @returns {Child} */
function restOf(detail, name) {
  if (!detail.route) return null;
  const route = name.slice(name.indexOf(" ") + 1);
  const statuses = Object.entries(detail.statuses).sort();
  const causes = Object.entries(detail.causes).sort((one, other) => other[1] - one[1]);
  return [
    heat(detail),
    h("div", { class: "charts grid" },
      list(words.statuses, statuses.map(([status, number]) => [tag(statusLevel(Number(status)), status), number]), words.none),
      list(words.causes, causes.map(([cause, number]) => [h("a", { href: `#/requests?${new URLSearchParams({ route, cause })}` }, cause.replaceAll("_", " ")), number]), words.noCauses),
      list(words.invalid, detail.invalid.map((/** @type {any} */ each) => [`${each.location}: ${each.kind}`, each.count]), words.noInvalid)),
  ];
}

/**
 * Only the buckets that are in use, and one around them.
 * @param {any} detail
 */
function heat({ time: times, counts, bounds_ms: bounds }) {
  const used = counts.flatMap((/** @type {number[]} */ step) => step.flatMap((number, bucket) => (number > 0 ? [bucket] : [])));
  if (!used.length) return null;
  const [low, high] = [Math.min(...used), Math.max(...used) + 1];
  const names = [...bounds.map((/** @type {number} */ bound) => `≤ ${milliseconds(bound)}`), `> ${milliseconds(bounds.at(-1))}`].slice(low, high);
  return heatmap(times.map((/** @type {number} */ at, /** @type {number} */ step) => ({ time: at, counts: counts[step].slice(low, high) })), { label: words.heat, bounds: names });
}

/**
 * Parts of a whole, with bars.
 * @param {string} title @param {[Child, number][]} rows @param {string} empty
 */
function list(title, rows, empty) {
  const whole = rows.reduce((sum, [, number]) => sum + number, 0);
  const line = (/** @type {[Child, number]} */ [label, number]) => h("li", null, h("span", null, label), h("meter", { value: number, max: whole, "aria-label": `${title}: ${percent(number / whole)}` }), h("span", { class: "number" }, count(number)));
  return h("section", { class: "card" }, h("h2", null, title), rows.length ? h("ul", { class: "shares" }, rows.map(line)) : h("p", { class: "quiet" }, empty));
}

/** @param {HTMLElement} place @param {string} name */
async function showCompared(place, name) {
  const [method, ...route] = name.split(" ");
  const answer = await get("requests", { route: route.join(" "), limit: MOST_COMPARED });
  const kept = answer.state === "value" ? (answer.value.requests ?? []).filter((/** @type {any} */ request) => request.method === method) : [];
  const sorted = kept.sort((/** @type {any} */ one, /** @type {any} */ other) => one.duration_ms - other.duration_ms);
  if (answer.state === "value" && !sorted.length) return replace(place, h("h2", null, words.compared), h("p", { class: "quiet" }, words.nothingKept));
  const pair = [[words.median, sorted[(sorted.length - 1) >> 1]], [words.slowest, sorted.at(-1)]];
  replace(place, h("h2", null, words.compared), part(answer, () => [h("p", { class: "quiet" }, words.ofKept(sorted.length)), h("div", { class: "charts grid" }, pair.map(([title, request]) => card(title, request, sorted.at(-1).duration_ms)))]));
}

/** @param {string} title @param {any} request @param {number} longest */
function card(title, request, longest) {
  const timings = h("div");
  get(`requests/${encodeURIComponent(request.key)}`).then((answer) => replace(timings, part(answer, ({ stories }) => split(stories[0].timings_ms, request.duration_ms, longest))));
  return h("section", { class: "card" }, h("div", { class: "row" }, h("h3", null, title), h("a", { href: `#/requests/${encodeURIComponent(request.key)}` }, words.open)), h("p", { class: "big" }, milliseconds(request.duration_ms), " ", tag(statusLevel(request.status), request.status)), h("p", { class: "quiet" }, time(Date.parse(request.timestamp) / 1_000), " · ", request.path), h("p", null, request.why ?? words.noReason), timings);
}

/**
 * Where the time went.
 * @param {Record<string, number>} timings @param {number} whole @param {number} longest
 */
function split(timings, whole, longest) {
  const known = Object.entries(timings).sort((one, other) => other[1] - one[1]);
  const line = (/** @type {string} */ name, /** @type {number} */ ms) => h("li", null, h("span", null, name.replaceAll("_", " ")), h("meter", { value: ms, max: longest, "aria-label": name }), h("span", { class: "number" }, milliseconds(ms)));
  return h("ul", { class: "shares" }, line(words.whole, whole), known.map(([name, ms]) => line(name, ms)));
}
