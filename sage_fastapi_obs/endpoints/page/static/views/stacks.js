/** What hangs now: requests in flight with the line that each waits at, and the threads, folded. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { count, milliseconds, NOTHING, part, problem, tag } from "../figures.js";
import { texts } from "../texts.js";
import { poll, redraw } from "./redraw.js";
import { table } from "../table.js";

const words = texts.stacks;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  replace(place, h("h1", null, title), h("p", { class: "quiet" }, words.explain), body);
  // Nothing changes below the eyes of somebody who reads a stack.
  const draw = (/** @type {import("../api.js").Answer} */ answer) => (answer.state === "value" && body.querySelector("details[open]") ? null : redraw(body, part(answer, report)));
  return poll(context, () => get("stacks", {}, { signal: context.signal }), draw);
}

/**
 * Whether a route is one of this page; the address of the page ends in what such routes begin with.
 * @param {string} route
 */
function isOurs(route) {
  const parts = location.pathname.split("/").slice(0, -1);
  return parts.slice(1).some((_, index) => route.startsWith(`/${parts.slice(index + 1).join("/")}/`));
}

/** @param {any} found */
function report({ requests, threads, others, no_answer: silent }) {
  const shown = requests.filter((/** @type {any} */ request) => !isOurs(request.route ?? ""));
  const own = requests.length - shown.length;
  return [
    silent.length ? problem(words.silent(silent.join(", "))) : null,
    h("section", null, h("h2", null, words.requests(count(shown.length + others))), table(COLUMNS, shown, { label: words.requests(""), empty: [h("p", { class: "empty-title" }, words.empty), h("p", null, words.emptyHint)] }), own ? h("p", { class: "quiet" }, words.own(own)) : null),
    h("details", { class: "fold" }, h("summary", null, words.threads(count(threads.length))), h("ul", { class: "threads" }, threads.map(thread))),
  ];
}

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "age", title: words.columns.age, align: "right", cell: (request) => milliseconds(request.age_ms) },
  { key: "request", title: words.columns.request, cell: (request) => [h("span", { class: "method" }, request.method), " ", request.route ?? request.path, h("div", { class: "quiet mono" }, request.request_id)] },
  { key: "state", title: words.columns.state, cell: (request) => tag(request.state === "running" ? "warning" : "neutral", words.states[/** @type {"running"} */ (request.state)] ?? String(request.state)) },
  { key: "at", title: words.columns.at, cell: (request) => [h("code", null, request.at ?? NOTHING), request.stacks.length ? h("details", { class: "fold" }, h("summary", null, words.stack), request.stacks.map(lines)) : null] },
  { key: "worker", title: words.columns.worker, align: "right", cell: (request) => String(request.worker ?? NOTHING) },
];

/** @param {any} found */
function thread({ name, worker, at, request_id: request, stack }) {
  const whose = [worker === null ? null : words.worker(worker), request].filter(Boolean).join(" · ");
  return h("li", null, h("details", { class: "fold" }, h("summary", null, name, " ", h("span", { class: "quiet" }, [whose, at].filter(Boolean).join(" · "))), lines(stack)));
}

/** @param {string[]} stack the innermost last */
const lines = (stack) => h("pre", { tabindex: "0" }, stack.join("\n"));
