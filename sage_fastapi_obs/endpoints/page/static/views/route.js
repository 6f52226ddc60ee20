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
  const draw = (/** @type {any} */ { time: times, series, route }) => {
    charts.hidden = !route;
    latency.update(times, ["p50", "p95", "p99"].map((each) => ({ name: each, values: series[`${each}_ms`] })));
    requests.update(times, [{ name: words.requests, values: series.requests_per_second }]);
  };
  return (answer) => {
    charts.hidden = true;
    replace(rest);
    const render = (/** @type {any} */ detail) => {
      const shown = figuresOf(detail);
      replace(rest, restOf(detail, name));
      draw(detail);
      return shown;
    };
    replace(figures, part(answer, render));
  };
}

/** @param {any} detail */
function figuresOf({ route, covered_seconds }) {
  if (route === undefined) throw new TypeError("no route");
  if (!route) return nothing(words.empty, h("p", null, words.emptyHint));
  const { duration, error_ratio, failed } = route;
  /** @type {import("../figures.js").Level} */
  const level = failed ? "bad" : "neutral";
  const errors = { level, detail: failed ? words.failed(count(failed)) : null };
  return h("dl", { class: "figures" },
    figure(words.requests, shown(route.count / covered_seconds, rate), { detail: words.count(count(route.count)) }),
    figure(words.errors, shown(error_ratio, percent), errors),
    ["p50", "p95", "p99", "max"].map((each) => figure(each, shown(duration[each] && duration[each] * 1_000, milliseconds))),
    figure(words.total, shown(duration.sum * 1_000, milliseconds)),
  );
}

/** @param {unknown} value @param {(value: unknown) => string} format @returns {import("../figures.js").Shown} */
const shown = (value, format) => (isNumber(value) ? { state: "value", text: format(value) } : { state: "none" });

/** @param {any} detail @param {string} name @returns {Child} */
function restOf(detail, name) {
  if (!detail.route) return null;
  const route = name.slice(name.indexOf(" ") + 1);
  const cause = (/** @type {string} */ each) => h("a", { href: `#/requests?${new URLSearchParams({ route, cause: each })}` }, each.replaceAll("_", " "));
  const places = detail.invalid.map((/** @type {any} */ each) => [`${each.location}: ${each.kind}`, each.count]);
  return [
    heat(detail),
    h("div", { class: "grid" },
      shares(words.statuses, Object.entries(detail.statuses).sort().map(([status, number]) => [tag(statusLevel(Number(status)), status), number]), words.none),
      shares(words.causes, byNumber(detail.causes).map(([each, number]) => [cause(each), number]), words.noCauses),
      shares(words.invalid, places, words.noInvalid),
    ),
  ];
}

/** @param {Record<string, number>} numbers */
const byNumber = (numbers) => Object.entries(numbers).sort((one, other) => other[1] - one[1]);

// Only the buckets that are in use, and those between them.
/** @param {any} detail */
function heat({ time: times, counts, bounds_ms: bounds }) {
  const used = counts.flatMap((/** @type {number[]} */ step) => step.flatMap((number, bucket) => (number > 0 ? [bucket] : [])));
  if (!used.length) return null;
  const [low, high] = [Math.min(...used), Math.max(...used) + 1];
  const names = [...bounds.map((/** @type {number} */ bound) => `≤ ${milliseconds(bound)}`), `> ${milliseconds(bounds.at(-1))}`];
  const columns = times.map((/** @type {number} */ at, /** @type {number} */ step) => ({ time: at, counts: counts[step].slice(low, high) }));
  return heatmap(columns, { label: words.heat, bounds: names.slice(low, high) });
}

// Parts of a whole, with bars.
/** @param {string} name @param {[Child, number][]} rows @param {string} empty */
function shares(name, rows, empty) {
  const whole = rows.reduce((sum, [, number]) => sum + number, 0);
  const lines = rows.map(([label, number]) => share(label, number, whole, count, name));
  return h("section", { class: "card" }, h("h2", null, name), rows.length ? h("ul", { class: "shares" }, lines) : h("p", { class: "quiet" }, empty));
}

/** @param {Child} label @param {number} value @param {number} whole @param {(value: unknown) => string} format @param {string} name */
function share(label, value, whole, format, name) {
  const meter = h("meter", { value, max: whole, "aria-label": `${name}: ${percent(value / whole)}` });
  return h("li", null, h("span", null, label), meter, h("span", { class: "number" }, format(value)));
}

/** @param {HTMLElement} place @param {string} name */
async function showCompared(place, name) {
  const [method, ...route] = name.split(" ");
  const answer = await get("requests", { route: route.join(" "), limit: MOST_COMPARED });
  const title = h("h2", null, words.compared);
  replace(place, title, part(answer, ({ requests }) => compared(requests.filter((/** @type {any} */ request) => request.method === method))));
}

/** @param {any[]} requests @returns {Child} */
function compared(requests) {
  const sorted = requests.sort((one, other) => one.duration_ms - other.duration_ms);
  const [median, slowest] = [sorted[(sorted.length - 1) >> 1], sorted.at(-1)];
  if (!slowest) return h("p", { class: "quiet" }, words.nothingKept);
  const cards = [card(words.median, median, slowest.duration_ms), card(words.slowest, slowest, slowest.duration_ms)];
  return [h("p", { class: "quiet" }, words.ofKept(count(sorted.length))), h("div", { class: "grid" }, cards)];
}

/** @param {string} name @param {any} request @param {number} longest */
function card(name, { key, duration_ms, status, timestamp, path, why }, longest) {
  const id = encodeURIComponent(key);
  const timings = h("div");
  get(`requests/${id}`).then((answer) => replace(timings, part(answer, ({ stories }) => split(stories[0].timings_ms, duration_ms, longest))));
  return h("section", { class: "card" },
    h("div", { class: "row" }, h("h3", null, name), h("a", { href: `#/requests/${id}` }, words.open)),
    h("p", { class: "big" }, milliseconds(duration_ms), " ", tag(statusLevel(status), status)),
    h("p", { class: "quiet" }, time(Date.parse(timestamp) / 1_000), " · ", path),
    h("p", null, why ?? words.noReason),
    timings,
  );
}

// Where the time went.
/** @param {Record<string, number>} timings @param {number} whole @param {number} longest */
function split(timings, whole, longest) {
  const line = (/** @type {[string, number]} */ [name, ms]) => share(name.replaceAll("_", " "), ms, longest, milliseconds, name);
  return h("ul", { class: "shares" }, line([words.whole, whole]), byNumber(timings).map(line));
}
