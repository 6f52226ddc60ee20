/** The processes of the service: what each does, and how the last one with its number died. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { ago, bytes, count, date, milliseconds, part, tag } from "../figures.js";
import { texts } from "../texts.js";
import { poll, redraw, SortedTable } from "./redraw.js";

const words = texts.workers;
const LEVELS = /** @type {const} */ ({ running: "good", hanging: "bad", stopped: "bad", dead: "warning" });

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const rows = new SortedTable(COLUMNS, { label: title, empty: texts.states.none, sort: { key: "worker", descending: false } });
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  replace(place, h("h1", null, title), body);
  return poll(context, () => get("workers", {}, { signal: context.signal }), (answer) => redraw(body, part(answer, ({ workers }) => [rows.show(workers), workers.length === 1 ? h("p", { class: "quiet" }, words.alone) : null])));
}

/** @param {string} key @param {string} heading @param {(worker: any) => number | null} read @param {(value: unknown) => string} format @returns {import("../table.js").Column} */
const number = (key, heading, read, format) => ({ key, title: heading, align: "right", sort: read, cell: (worker) => format(read(worker)) });

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "worker", title: words.columns.worker, sort: (worker) => worker.worker, cell: (worker) => [String(worker.worker), " ", worker.leader ? tag("neutral", words.leader) : null] },
  { key: "state", title: words.columns.state, sort: (worker) => worker.state, cell: (worker) => [tag(LEVELS[/** @type {"running"} */ (worker.state)] ?? "warning", words.states[/** @type {"running"} */ (worker.state)] ?? String(worker.state)), since(worker)] },
  { key: "pid", title: words.columns.pid, align: "right", cell: (worker) => String(worker.process_id) },
  number("age", words.columns.age, (worker) => worker.age_seconds, (value) => milliseconds(typeof value === "number" ? value * 1_000 : null)),
  number("requests", words.columns.requests, (worker) => worker.requests, count),
  number("flight", words.columns.flight, (worker) => worker.in_flight, count),
  number("memory", words.columns.memory, (worker) => worker.memory_bytes, bytes),
  { key: "death", title: words.columns.death, cell: death },
];

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
