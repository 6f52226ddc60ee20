/** What hangs now: requests in flight with the line that each waits at, and the threads, folded. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { count, milliseconds, NOTHING, part, problem, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { awaiting, column, poll, quiet, redraw } from "./redraw.js";

const words = texts.stacks;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, context) {
  const body = awaiting();
  replace(place, h("h1", null, title), quiet(words.explain), body);
  const draw = (/** @type {import("../api.js").Answer} */ answer) => {
    // Nothing changes below the eyes of somebody who reads a stack.
    if (answer.state === "unavailable" || !body.querySelector("details[open]")) redraw(body, part(answer, report));
  };
  return poll(context, () => get("stacks", {}, { signal: context.signal }), draw);
}

// Whether a route is one of this page; the address of the page ends in what such routes begin with.
/** @param {string} route */
function isOurs(route) {
  const parts = location.pathname.split("/").slice(0, -1);
  return parts.slice(1).some((_, index) => route.startsWith(`/${parts.slice(index + 1).join("/")}/`));
}

/** @param {any} found */
function report({ requests, threads, others, no_answer: silent }) {
  const shown = requests.filter((/** @type {any} */ request) => !isOurs(request.route ?? ""));
  const own = requests.length - shown.length;
  const empty = [h("p", { class: "empty-title" }, words.empty), h("p", null, words.emptyHint)];
  return [
    silent.length ? problem(words.silent(silent.join(", "))) : null,
    h("section", null, h("h2", null, words.requests(count(shown.length + others))), table(COLUMNS, shown, { label: title, empty }), own ? quiet(words.own(own)) : null),
    h("details", { class: "fold" }, h("summary", null, words.threads(count(threads.length))), h("ul", { class: "threads" }, threads.map(thread))),
  ];
}

const COLUMNS = [
  column("age", words.columns.age, (request) => milliseconds(request.age_ms), { align: "right" }),
  column("request", words.columns.request, nameOf),
  column("state", words.columns.state, stateOf),
  column("at", words.columns.at, placeOf),
  column("worker", words.columns.worker, (request) => String(request.worker ?? NOTHING), { align: "right" }),
];

/** @param {any} request */
function nameOf({ method, route, path, request_id: id }) {
  return [h("span", { class: "method" }, method), " ", route ?? path, h("div", { class: "quiet mono" }, id)];
}

/** @param {any} request */
function stateOf({ state }) {
  return tag(state === "running" ? "warning" : "neutral", words.states[/** @type {"running"} */ (state)] ?? String(state));
}

/** @param {any} request */
function placeOf({ at, stacks }) {
  return [h("code", null, at ?? NOTHING), stacks.length ? h("details", { class: "fold" }, h("summary", null, words.stack), stacks.map(lines)) : null];
}

/** @param {any} found */
function thread({ name, worker, at, request_id: request, stack }) {
  const whose = [worker === null ? null : words.worker(worker), request].filter(Boolean).join(" · ");
  const summary = h("summary", null, name, " ", h("span", { class: "quiet" }, [whose, at].filter(Boolean).join(" · ")));
  return h("li", null, h("details", { class: "fold" }, summary, lines(stack)));
}

/** @param {string[]} stack the innermost last */
const lines = (stack) => h("pre", { tabindex: "0" }, stack.join("\n"));
