/** Tables: sorted by their headers, which are buttons; never more rows than a browser shows at once. */

import { h, replace } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{key: string, title: string, cell: (row: any) => Child, sort?: (row: any) => number | string | null, align?: "right"}} Column */
/** @typedef {{key: string, descending: boolean}} Sort */

export const MOST_ROWS = 200;

/**
 * Build a table. With `onsort` the caller sorts; without it the table does.
 * @param {Column[]} columns
 * @param {any[]} rows
 * @param {{sort?: Sort, onsort?: (sort: Sort) => void, empty?: Child, label?: string}} options
 * @returns {HTMLElement}
 */
export function table(columns, rows, { sort, onsort, empty = texts.states.none, label } = {}) {
  if (rows.length === 0) return h("div", { class: "empty" }, empty);
  const place = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label ?? texts.table.label });
  /** @param {Sort | undefined} by @param {string} [focused] */
  const draw = (by, focused) => {
    const shown = by && !onsort ? sorted(columns, rows, by) : rows;
    const head = h("tr", null, columns.map((column) => header(column, by, choose)));
    const body = shown.slice(0, MOST_ROWS).map((row) => line(columns, row));
    const cut = shown.length > MOST_ROWS && h("p", { class: "quiet" }, texts.table.cut(MOST_ROWS, shown.length));
    replace(place, h("table", null, h("thead", null, head), h("tbody", null, body)), cut);
    if (focused) /** @type {HTMLElement | null} */ (place.querySelector(`[data-key="${CSS.escape(focused)}"]`))?.focus();
  };
  /** @param {Sort} by */
  const choose = (by) => (onsort ? onsort(by) : draw(by, by.key));
  draw(sort);
  return place;
}

/** @param {Column[]} columns @param {any} row */
const line = (columns, row) => h("tr", null, columns.map((column) => h("td", { class: column.align ?? null }, column.cell(row))));

/** @param {Column} column @param {Sort | undefined} by @param {(by: Sort) => void} choose */
function header(column, by, choose) {
  if (!column.sort) return h("th", { scope: "col", class: column.align ?? null }, column.title);
  const chosen = by?.key === column.key ? by : null;
  const direction = chosen && (chosen.descending ? "descending" : "ascending");
  const onclick = () => choose({ key: column.key, descending: !chosen?.descending });
  const arrow = h("span", { "aria-hidden": "true", class: "arrow" }, chosen ? (chosen.descending ? " ↓" : " ↑") : "");
  const button = h("button", { class: "plain", "data-key": column.key, onclick }, column.title, arrow);
  return h("th", { scope: "col", class: column.align ?? null, "aria-sort": direction }, button);
}

/** @param {Column[]} columns @param {any[]} rows @param {Sort} by */
export function sorted(columns, rows, by) {
  const value = columns.find((column) => column.key === by.key)?.sort;
  return value ? [...rows].sort((one, other) => compare(value(one), value(other), by.descending)) : rows;
}

// What has no value comes last, whatever the direction.
/** @param {any} one @param {any} other @param {boolean} descending */
function compare(one, other, descending) {
  if (one === null || other === null) return Number(one === null) - Number(other === null);
  const order = typeof one === "string" ? one.localeCompare(String(other)) : one - other;
  return descending ? -order : order;
}
