/** All routes side by side; with a route in the address, that route. */

import { get } from "../api.js";
import { sparkline } from "../charts.js";
import { h, replace } from "../dom.js";
import { count, isNumber, milliseconds, part, percent, rate } from "../figures.js";
import { texts } from "../texts.js";
import { awaiting, column, numbers, poll, quiet, redraw, SortedTable } from "./redraw.js";
import { showRoute } from "./route.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../table.js").Column} Column */

const words = texts.routes;

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  const { rest, seconds, signal } = context;
  const [method, ...route] = rest.split(" ");
  if (rest) return poll(context, () => get("route", { method, route: route.join(" "), seconds }, { signal }), showRoute(place, rest));
  const rows = awaiting();
  const routes = new SortedTable([], { label: title, empty: words.empty, sort: { key: "total", descending: true } });
  replace(place, h("h1", null, title), rows);
  return poll(context, () => get("routes", { seconds }, { signal }), (answer) => redraw(rows, part(answer, (report) => rowsOf(routes, report))));
}

/** @param {SortedTable} shown @param {any} report */
function rowsOf(shown, { routes, routes_total, covered_seconds }) {
  shown.columns = columnsOf(covered_seconds);
  return [shown.show(routes), routes_total > routes.length && quiet(words.cut(routes.length, routes_total))];
}

/** @param {number} covered @returns {Column[]} */
function columnsOf(covered) {
  const of = words.columns;
  const errors = (/** @type {any} */ row) => h("span", { class: row.failed ? "bad-text" : "quiet" }, percent(row.error_ratio), row.failed ? " ✕" : "");
  const name = (/** @type {any} */ row) => h("a", { href: routeAddress(row) }, h("span", { class: "method" }, row.method), " ", row.route);
  return [
    column("route", of.route, name, { sort: (row) => row.route }),
    column("spark", of.spark, (row) => sparkline(row.requests, { label: of.rate, format: rate })),
    numbers("rate", of.rate, (row) => (covered > 0 ? row.count / covered : null), rate),
    column("errors", of.errors, errors, { sort: (row) => row.error_ratio, align: "right" }),
    numbers("p50", of.p50, (row) => milli(row.duration.p50), milliseconds),
    numbers("p95", of.p95, (row) => milli(row.duration.p95), milliseconds),
    numbers("p99", of.p99, (row) => milli(row.duration.p99), milliseconds),
    numbers("total", of.total, (row) => milli(row.duration.sum), milliseconds),
    numbers("count", of.count, (row) => row.count, count),
  ];
}

/** @param {unknown} seconds */
const milli = (seconds) => (isNumber(seconds) ? seconds * 1_000 : null);

/** @param {{method: string, route: string}} row */
const routeAddress = ({ method, route }) => `#/routes/${encodeURIComponent(`${method} ${route}`)}`;
