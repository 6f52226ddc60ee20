/** Failures by type, route and place in the code: how often, since when, and whether somebody has resolved them. */

import { get, put } from "../api.js";
import { sparkline } from "../charts.js";
import { h, replace } from "../dom.js";
import { ago, count, nothing, part, problem, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { requestAddress } from "./written.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../api.js").Answer} Answer */

const words = texts.issues;
const AGAIN_MS = 10_000;

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, { live, signal }) {
  const said = h("div", { role: "status" });
  const list = h("div", { class: "feed issues" }, h("p", { class: "quiet" }, texts.page.loading));
  replace(place, h("h1", null, title), h("p", { class: "quiet" }, words.hint), said, list);
  /** @param {Answer} answer */
  const update = (answer) => !signal.aborted && replace(list, part(answer, (found) => listOf(found, change)));
  /** @param {any} issue */
  async function change(issue) {
    const answer = await put(`issues/${encodeURIComponent(issue.id)}`, { resolved: issue.state !== "resolved" });
    replace(said, answer.state === "unavailable" ? problem(answer.reason) : null);
    if (answer.state === "value") update(answer);
  }
  const ask = async () => update(await get("issues", {}, { signal }));
  const isBusy = () => live.state === "paused" || document.hidden || list.contains(document.activeElement);
  const again = setInterval(() => !isBusy() && ask(), AGAIN_MS);
  ask();
  return () => clearInterval(again);
}

/** @param {any} found @param {(issue: any) => void} change */
function listOf({ issues, failures, is_complete: isComplete }, change) {
  const empty = nothing(words.none, words.noneHint);
  return [table(columns(change), issues, { empty, label: title }), h("p", { class: "quiet" }, words.of(count(failures)), isComplete ? null : ` ${words.more}`)];
}

/** @param {(issue: any) => void} change @returns {import("../table.js").Column[]} */
function columns(change) {
  const since = (/** @type {string} */ at) => h("time", { datetime: at, title: at }, ago((Date.now() - Date.parse(at)) / 1_000));
  return [
    { key: "issue", title: words.issue, cell: nameOfIssue },
    { key: "route", title: words.route, cell: routeOf, sort: (issue) => issue.route },
    { key: "count", title: words.count, align: "right", cell: (issue) => count(issue.count), sort: (issue) => issue.count },
    { key: "counts", title: words.counts, cell: (issue) => sparkline(issue.counts, { label: words.counts, format: count }) },
    { key: "first", title: words.first, cell: (issue) => since(issue.first_seen), sort: (issue) => issue.first_seen },
    { key: "last", title: words.last, cell: (issue) => since(issue.last_seen), sort: (issue) => issue.last_seen },
    { key: "change", title: words.change, cell: (issue) => changeButton(issue, change) },
  ];
}

/** @param {any} issue @param {(issue: any) => void} change */
const changeButton = (issue, change) =>
  h("button", { class: "small", onclick: () => change(issue) }, issue.state === "resolved" ? words.reopen : words.resolve);

/** @type {Record<string, import("../figures.js").Level>} */
const LEVELS = { resolved: "good", reopened: "bad" };

/** @param {any} issue */
function nameOfIssue({ example, error_type: type, status, state, why }) {
  const word = words.states[/** @type {keyof typeof words.states} */ (state)] ?? state;
  const link = h("a", { href: requestAddress(example) }, type ?? String(status));
  return [link, " ", tag(LEVELS[state] ?? "neutral", word), h("div", { class: "why" }, why)];
}

/** @param {any} issue */
function routeOf({ method, route }) {
  const wanted = new URLSearchParams({ failed: "true", ...(route === null ? {} : { route }) });
  return h("a", { href: `#/requests?${wanted}` }, `${method} ${route ?? words.noRoute}`);
}
