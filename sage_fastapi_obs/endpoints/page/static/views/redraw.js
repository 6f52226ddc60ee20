/** What the views share that ask again and again: the asking, and drawing anew without taking away what somebody holds. */

import { h, replace } from "../dom.js";
import { sorted, table } from "../table.js";
import { texts } from "../texts.js";

/** @typedef {import("./index.js").Context} Context */
/** @typedef {import("../api.js").Answer} Answer */
/** @typedef {import("../table.js").Column} Column */
/** @typedef {import("../table.js").Sort} Sort */

const AGAIN_MS = 5_000;
const FOCUSABLE = "a, button, summary, input, select, [tabindex]";

/**
 * Ask at once and then every five seconds, unless the page is paused.
 * @param {Context} context
 * @param {() => Promise<Answer>} ask
 * @param {(answer: Answer) => void} draw
 */
export function poll({ live, signal }, ask, draw) {
  let asked = false;
  const update = async () => {
    if (asked) return;
    asked = true;
    const answer = await ask();
    asked = false;
    if (!signal.aborted) draw(answer);
  };
  const again = setInterval(() => live.state !== "paused" && update(), AGAIN_MS);
  update();
  return () => clearInterval(again);
}

/**
 * Replace what is shown; focus and scrolled tables stay where they are.
 * @param {Element} place
 * @param {...import("../dom.js").Child} children
 */
export function redraw(place, ...children) {
  const held = document.activeElement;
  const name = held && place.contains(held) ? nameOf(held) : null;
  const scrolled = [...place.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  replace(place, ...children);
  if (name !== null) /** @type {HTMLElement | undefined} */ ([...place.querySelectorAll(FOCUSABLE)].find((each) => nameOf(each) === name))?.focus({ preventScroll: true });
  place.querySelectorAll(".scroll").forEach((each, index) => (each.scrollLeft = scrolled[index] ?? 0));
}

/** @param {Element} element */
const nameOf = (element) => element.getAttribute("href") ?? element.getAttribute("data-key") ?? `${element.tagName} ${element.getAttribute("aria-label") ?? element.textContent}`;

/** A place that is filled when there is an answer. */
export const awaiting = () => h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));

/** @param {import("../dom.js").Child} text */
export const quiet = (text) => h("p", { class: "quiet" }, text);

// A column; `more` says by what it is sorted, and where it is aligned.
/** @param {string} key @param {string} heading @param {Column["cell"]} cell @param {Partial<Column>} [more] @returns {Column} */
export const column = (key, heading, cell, more) => ({ key, title: heading, cell, ...more });

// A column of numbers, by which it is sorted.
/** @param {string} key @param {string} heading @param {(row: any) => number | null} read @param {(value: unknown) => string} format */
export const numbers = (key, heading, read, format) => column(key, heading, (row) => format(read(row)), { sort: read, align: "right" });

// A column of words, by which it is sorted.
/** @param {string} key @param {string} heading @param {(row: any) => string} read */
export const wordsOf = (key, heading, read) => column(key, heading, read, { sort: read });

/** A table that stays sorted as somebody has sorted it. */
export class SortedTable {
  /** @param {Column[]} columns @param {{label: string, empty: import("../dom.js").Child, sort?: Sort}} options */
  constructor(columns, { label, empty, sort }) {
    this.columns = columns;
    this.options = { label, empty };
    this.sort = sort;
    this.element = h("div");
  }

  /** @param {any[]} rows */
  show(rows) {
    const onsort = (/** @type {Sort} */ chosen) => ((this.sort = chosen), this.show(rows));
    redraw(this.element, table(this.columns, this.sort ? sorted(this.columns, rows, this.sort) : rows, { ...this.options, sort: this.sort, onsort }));
    return this.element;
  }
}

// A field to search with, which changes what is shown while one types.
/** @param {string} label @param {string} value @param {(text: string) => void} changed */
export function searchField(label, value, changed) {
  const input = h("input", { type: "search", value, placeholder: label, "aria-label": label, oninput: () => changed(input.value) });
  return input;
}

// A choice among some values.
/** @param {string} label @param {[string, string][]} options values with their names @param {string} chosen @param {(value: string) => void} changed */
export function choose(label, options, chosen, changed) {
  const select = h("select", { onchange: () => changed(select.value) }, options.map(([value, name]) => h("option", { value, selected: value === chosen }, name)));
  return h("label", { class: "choice" }, label, " ", select);
}

/** @param {string} text @param {...string} within whether one of them has all words of a text */
export function matches(text, ...within) {
  const whole = within.join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => whole.includes(word));
}
