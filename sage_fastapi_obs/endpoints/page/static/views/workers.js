/** The processes of the service: what each does, and how the last one with its number died. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { ago, bytes, count, date, milliseconds, part, tag } from "../figures.js";
import { texts } from "../texts.js";
import { awaiting, column, numbers, poll, quiet, redraw, SortedTable } from "./redraw.js";

const words = texts.workers;
const LEVELS = /** @type {const} */ ({ running: "good", hanging: "bad", stopped: "bad", dead: "warning" });

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const rows = new SortedTable(COLUMNS, { label: title, empty: texts.states.none, sort: { key: "worker", descending: false } });
  const body = awaiting();
  replace(place, h("h1", null, title), body);
  const draw = (/** @type {any} */ { workers }) => [rows.show(workers), workers.length === 1 ? quiet(words.alone) : null];
  return poll(context, () => get("workers", {}, { signal: context.signal }), (answer) => redraw(body, part(answer, draw)));
}

/** @param {unknown} value */
const seconds = (value) => milliseconds(typeof value === "number" ? value * 1_000 : null);

const COLUMNS = [
  column("worker", words.columns.worker, numberOf, { sort: (worker) => worker.worker }),
  column("state", words.columns.state, stateOf, { sort: (worker) => worker.state }),
  column("pid", words.columns.pid, (worker) => String(worker.process_id), { align: "right" }),
  numbers("age", words.columns.age, (worker) => worker.age_seconds, seconds),
  numbers("requests", words.columns.requests, (worker) => worker.requests, count),
  numbers("flight", words.columns.flight, (worker) => worker.in_flight, count),
  numbers("memory", words.columns.memory, (worker) => worker.memory_bytes, bytes),
  column("death", words.columns.death, death),
];

/** @param {any} worker */
function numberOf({ worker, leader }) {
  return [String(worker), " ", leader ? tag("neutral", words.leader) : null];
}

/** @param {any} worker */
function stateOf(worker) {
  const state = /** @type {"running"} */ (worker.state);
  return [tag(LEVELS[state] ?? "warning", words.states[state] ?? String(state)), since(worker)];
}

/** @param {any} worker */
function since({ state, loop_age_seconds: loop, heartbeat_age_seconds: heart }) {
  const seconds = state === "hanging" ? loop : state === "stopped" || state === "dead" ? heart : null;
  return seconds === null ? null : h("div", { class: "quiet" }, ago(seconds));
}

/** @param {any} worker */
function death({ last_death: last }) {
  if (!last) return h("span", { class: "quiet" }, words.noDeath);
  return [words.reasons[/** @type {"oom"} */ (last.reason)] ?? last.reason, h("div", { class: "quiet" }, date(Date.parse(last.timestamp) / 1_000))];
}
