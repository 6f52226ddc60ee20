/** All routes side by side; with a route in the address, that route. */

import { get } from "../api.js";
import { sparkline } from "../charts.js";
import { h, replace } from "../dom.js";
import { count, isNumber, milliseconds, part, percent, rate } from "../figures.js";
import { sorted, table } from "../table.js";
import { texts } from "../texts.js";
import { showRoute } from "./route.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../table.js").Column} Column */

const words = texts.routes;
const AGAIN_MS = 5_000;

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  const rows = h("div", null, h("p", { class: "quiet" }, texts.page.loading));
  const draw = context.rest ? showRoute(place, context.rest) : showAll;
  if (!context.rest) replace(place, h("h1", null, title), rows);
  const update = async () => {
    const answer = await get(...question(context), { signal: context.signal });
    if (!context.signal.aborted) draw(answer, rows);
  };
  const again = setInterval(() => context.live.state === "live" && update(), AGAIN_MS);
  update();
  return () => clearInterval(again);
}

/** @param {Context} context @returns {[string, import("../api.js").Query]} */
function question({ rest, seconds }) {
  const [method, ...route] = rest.split(" ");
  return rest ? ["route", { method, route: route.join(" "), seconds }] : ["routes", { seconds }];
}

// How the table is sorted, also after it was drawn anew.
/** @type {import("../table.js").Sort} */
let sort = { key: "total", descending: true };

/** @param {import("../api.js").Answer} answer @param {HTMLElement} place */
function showAll(answer, place) {
  const focused = place.querySelector("button:focus")?.getAttribute("data-key");
  const onsort = (/** @type {import("../table.js").Sort} */ chosen) => ((sort = chosen), showAll(answer, place));
  replace(place, part(answer, ({ routes, routes_total, covered_seconds }) => {
    const columns = columnsOf(covered_seconds);
    const cut = routes_total > routes.length && h("p", { class: "quiet" }, words.cut(routes.length, routes_total));
    return [table(columns, sorted(columns, routes, sort), { sort, onsort, label: title, empty: words.empty }), cut];
  }));
  if (focused) /** @type {HTMLElement | null} */ (place.querySelector(`[data-key="${focused}"]`))?.focus();
}

/** @param {number} covered @returns {Column[]} */
function columnsOf(covered) {
  const share = (/** @type {any} */ row) => h("span", { class: row.failed ? "bad-text" : "quiet" }, percent(row.error_ratio), row.failed ? " ✕" : "");
  /** @param {keyof typeof words.columns} key @param {(row: any) => number | null} read @param {(value: unknown) => string} format */
  const number = (key, read, format) => {
    const cell = (/** @type {any} */ row) => format(read(row));
    return { key, title: words.columns[key], align: /** @type {const} */ ("right"), sort: read, cell };
  };
  const name = (/** @type {any} */ row) => h("a", { href: routeAddress(row) }, h("span", { class: "method" }, row.method), " ", row.route);
  return [
    { key: "route", title: words.columns.route, sort: (row) => row.route, cell: name },
    { key: "spark", title: words.columns.spark, cell: (row) => sparkline(row.requests, { label: words.columns.rate, format: rate }) },
    number("rate", (row) => (covered > 0 ? row.count / covered : null), rate),
    { ...number("errors", (row) => row.error_ratio, percent), cell: share },
    number("p50", (row) => milli(row.duration.p50), milliseconds),
    number("p95", (row) => milli(row.duration.p95), milliseconds),
    number("p99", (row) => milli(row.duration.p99), milliseconds),
    number("total", (row) => milli(row.duration.sum), milliseconds),
    number("count", (row) => row.count, count),
  ];
}

/** @param {unknown} seconds */
const milli = (seconds) => (isNumber(seconds) ? seconds * 1_000 : null);

/** @param {{method: string, route: string}} row */
const routeAddress = ({ method, route }) => `#/routes/${encodeURIComponent(`${method} ${route}`)}`;
