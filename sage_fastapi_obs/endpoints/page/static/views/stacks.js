/** What hangs now: requests in flight with the line that each waits at, and the threads, folded. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { count, milliseconds, NOTHING, nothing, part, problem, tag } from "../figures.js";
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

/** @param {any} found */
function report({ requests, threads, others, no_answer: silent }) {
  return [
    silent.length ? problem(words.silent(silent.join(", "))) : null,
    h("section", null, h("h2", null, words.requests(count(requests.length + others))), table(COLUMNS, requests, { label: words.requests(""), empty: nothing(words.empty, h("p", null, words.emptyHint)) })),
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
