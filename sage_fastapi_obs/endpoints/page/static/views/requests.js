/** Kept requests, newest first, each with the reason why it was slow or failed; new ones come by themselves. */

import { get } from "../api.js";
import { caseFile, openedCase } from "../case.js";
import { h, replace } from "../dom.js";
import { isNumber, milliseconds, nothing, part, problem, statusLevel, tag, time } from "../figures.js";
import { MOST_ROWS, table } from "../table.js";
import { texts } from "../texts.js";
import { showRequest, showStories } from "./request.js";
import { nameOf, requestAddress } from "./written.js";

/** @typedef {import("./index.js").Context} Context */

const words = texts.requests;
const TAIL_MS = 2_000;
const NEAR_TOP = 160;
const PHONE = 760;
const PAGE_ROWS = 50;
const FILTERS = ["text", "route", "status", "kept", "cause", "slower_than_seconds", "failed", "id"];

// Requests that stay in view while the page is open.
/** @type {Map<string, any>} */
const pinned = new Map();

export const title = words.title;

/** @param {HTMLElement} place @param {Context} context */
export function show(place, context) {
  if (context.rest) return void showRequest(place, context.rest, context.signal);
  if (context.params.has("case")) return showOpened(place);
  return new RequestList(place, context).start();
}

/** @param {HTMLElement} place */
function showOpened(place) {
  const opened = openedCase();
  replace(place, h("a", { href: "#/requests" }, words.all), h("h1", null, words.opened), opened ? part({ state: "value", value: opened }, showStories) : problem(words.lost));
}

/** The list, and what keeps it up to date. */
class RequestList {
  /** @type {any[]} newest first */
  requests = [];
  /** @type {any[]} those that came while somebody reads further down */
  waiting = [];
  /** @type {string | null} */
  latest = null;
  /** @type {string | null} */
  next = null;
  /** @type {number | null} */
  excluded = null;
  /** The number of the question that counts. */
  asked = 0;
  isAsking = false;

  /** @param {HTMLElement} place @param {Context} context */
  constructor(place, { params, live, signal }) {
    this.params = new URLSearchParams(FILTERS.flatMap((name) => (params.get(name) ? [[name, params.get(name) ?? ""]] : [])));
    this.live = live;
    this.signal = signal;
    this.said = h("div", { role: "status" });
    this.list = h("div", { class: "feed" }, h("p", { class: "quiet" }, texts.page.loading));
    this.older = h("button", { hidden: true, onclick: () => this.ask({ before: this.next }) }, words.older);
    this.form = h("form", { class: "filters", onsubmit: (/** @type {Event} */ event) => event.preventDefault(), onchange: () => this.filter() }, this.fields());
    const opened = caseFile(() => (location.hash = "#/requests?case"));
    // On a phone there is no room for the filters before the first request.
    const filters = h("details", { class: "folded", open: innerWidth >= PHONE || this.params.toString() !== "" }, h("summary", null, words.filter), this.form);
    replace(place, h("div", { class: "row" }, h("h1", null, title), opened), filters, this.said, this.list, this.older);
  }

  start() {
    this.ask({});
    const again = setInterval(() => this.follow(), TAIL_MS);
    return () => clearInterval(again);
  }

  fields() {
    const { filters } = words;
    return [
      h("label", null, filters.text, this.typed("text", words.textHint)),
      h("label", null, filters.route, this.typed("route", "/items/{id}")),
      h("label", null, filters.status, this.choice("status", words.statuses)),
      h("label", null, filters.failed, this.choice("failed", words.outcomes)),
      h("label", null, filters.kept, this.choice("kept", words.reasons)),
      h("label", null, filters.cause, this.choice("cause", words.causes)),
      h("label", null, filters.slower, this.choice("slower_than_seconds", words.slower)),
      this.params.has("id") ? h("label", null, filters.id, this.typed("id", "")) : null,
    ];
  }

  /** @param {string} name @param {string} hint */
  typed(name, hint) {
    return h("input", { name, type: "search", value: this.params.get(name) ?? "", placeholder: hint, maxlength: 256 });
  }

  /** @param {string} name @param {Record<string, string>} options */
  choice(name, options) {
    const chosen = this.params.get(name) ?? "";
    const option = ([value, label] = ["", ""]) => h("option", { value, selected: value === chosen }, label);
    return h("select", { name }, Object.entries({ "": words.any, ...options }).map(option));
  }

  /** Ask anew with what the form says; the address says it, too, so that it can be shared. */
  filter() {
    const given = [...new FormData(this.form)].filter(([, value]) => value !== "");
    this.params = new URLSearchParams(/** @type {[string, string][]} */ (given));
    history.replaceState(null, "", `#/requests${given.length ? `?${this.params}` : ""}`);
    [this.requests, this.waiting, this.latest, this.next] = [[], [], null, null];
    this.ask({});
  }

  /** Ask for what has come since, unless nobody wants that now. */
  follow() {
    if (this.isAsking || this.live.state === "paused" || document.hidden) return;
    this.ask(this.latest === null ? {} : { after: this.latest });
  }

  /** @param {{before?: string | null, after?: string}} cursor */
  async ask(cursor) {
    const number = ++this.asked;
    this.isAsking = true;
    const answer = await get("requests", { ...Object.fromEntries(this.params), ...cursor, limit: cursor.after ? MOST_ROWS : PAGE_ROWS }, { signal: this.signal });
    if (this.signal.aborted || number !== this.asked) return;
    this.isAsking = false;
    if (answer.state === "unavailable") return this.refuse(answer.reason, !cursor.after);
    const { requests, latest, next, excluded } = answer.value;
    if (!Array.isArray(requests) || typeof latest !== "string") return this.refuse(texts.reasons.garbage, true);
    this.latest = cursor.before ? this.latest : latest;
    this.excluded = isNumber(excluded) ? excluded : null;
    if (cursor.before) this.requests.push(...requests);
    else if (cursor.after) this.waiting = [...requests, ...this.waiting].slice(0, MOST_ROWS);
    else this.requests = requests;
    if (!cursor.after) this.next = next;
    this.update(!cursor.after || requests.length > 0);
  }

  /** @param {string} reason @param {boolean} alone whether there is nothing else to show */
  refuse(reason, alone) {
    replace(this.said, problem(reason));
    if (alone) replace(this.list);
    this.older.hidden = true;
  }

  /** @param {boolean} changed */
  update(changed) {
    const reads = scrollY > NEAR_TOP && this.requests.length > 0;
    if (!reads && this.waiting.length) this.take();
    const waits = reads && this.waiting.length > 0;
    replace(this.said, waits ? h("button", { class: "primary", onclick: () => this.showWaiting() }, words.more(this.waiting.length)) : null);
    if (changed || !this.list.firstChild) this.draw();
  }

  showWaiting() {
    this.take();
    this.draw();
    scrollTo(0, 0);
    replace(this.said);
  }

  take() {
    const known = new Set(this.requests.map(({ key }) => key));
    this.requests = [...this.waiting.filter(({ key }) => !known.has(key)), ...this.requests].slice(0, MOST_ROWS);
    this.waiting = [];
  }

  draw() {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.key;
    const rows = [...pinned.values(), ...this.requests.filter(({ key }) => !pinned.has(key))].slice(0, MOST_ROWS);
    const excluded = this.excluded ? h("p", { class: "quiet" }, words.excluded(this.excluded)) : null;
    replace(this.list, table(this.columns(), rows, { empty: this.empty(), label: title }), excluded);
    this.older.hidden = this.next === null || rows.length >= MOST_ROWS;
    if (focused) /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-key="${CSS.escape(focused)}"]`))?.focus({ preventScroll: true });
  }

  empty() {
    return [...this.params].length ? words.noneLikeThis : nothing(words.none, words.noneHint);
  }

  /** @returns {import("../table.js").Column[]} */
  columns() {
    return [
      { key: "pin", title: "", cell: (row) => this.pin(row) },
      { key: "time", title: words.time, cell: (row) => h("time", { datetime: row.timestamp, title: row.timestamp }, time(Date.parse(row.timestamp) / 1_000)) },
      { key: "request", title: words.request, cell: requestLink },
      { key: "status", title: words.status, cell: (row) => tag(statusLevel(row.status), String(row.status)) },
      { key: "duration", title: words.duration, align: "right", cell: (row) => milliseconds(row.duration_ms) },
      { key: "why", title: words.why, cell: why },
    ];
  }

  /** @param {any} row */
  pin(row) {
    const is = pinned.has(row.key);
    const onclick = () => (is ? pinned.delete(row.key) : pinned.set(row.key, row), this.draw());
    return h("button", { class: "plain pin", "aria-pressed": String(is), "aria-label": words.pin, title: words.pin, "data-key": `pin ${row.key}`, onclick }, is ? "★" : "☆");
  }
}

/** @param {any} row */
function requestLink(row) {
  const path = row.route === null || row.route === row.path ? null : h("div", { class: "quiet path" }, row.path);
  return [h("a", { href: requestAddress(row.key), "data-key": row.key }, nameOf(row)), path];
}

/** @param {any} row */
function why(row) {
  const kept = words.reasons[/** @type {keyof typeof words.reasons} */ (row.kept)] ?? row.kept;
  const reason = row.why ?? row.error_type;
  return [reason === null ? null : h("span", { class: "why" }, reason), " ", h("span", { class: "quiet kept" }, kept)];
}
