/** The settings in force, and where each value came from. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { nothing, part, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { matches, redraw, searchField } from "./redraw.js";

const words = texts.settings;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, { signal }) {
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, texts.page.loading));
  let search = "";
  let all = false;
  /** @type {import("../api.js").Answer | null} */
  let answer = null;
  const draw = () => answer && !signal.aborted && redraw(body, part(answer, (found) => tree(found, search, all)));
  const box = h("input", { type: "checkbox", onchange: () => ((all = box.checked), draw()) });
  replace(place, h("h1", null, title), h("div", { class: "controls" }, searchField(words.search, "", (text) => ((search = text), draw())), h("label", { class: "choice" }, box, " ", words.defaults)), body);
  get("settings", {}, { signal }).then((found) => ((answer = found), draw()));
}

/** @param {any} found @param {string} search @param {boolean} all whether those with their default are shown, too */
function tree({ preset, remarks, sections }, search, all) {
  const wanted = (/** @type {any} */ section) => section.settings.filter((/** @type {any} */ one) => (all || search || one.source !== "default") && matches(search, `${section.name}.${one.name}`, one.help, text(one.value), one.source_name));
  const shown = sections.map((/** @type {any} */ section) => ({ ...section, settings: wanted(section) })).filter((/** @type {any} */ section) => section.settings.length);
  return [
    remarks.length ? h("section", null, h("h2", null, words.remarks), h("ul", { class: "reasons" }, remarks.map((/** @type {string} */ remark) => h("li", { class: "remark" }, tag("warning", words.remark), h("span", null, remark))))) : null,
    h("p", { class: "quiet", role: "status" }, preset ? words.preset(preset) : words.noPreset, " ", all || search ? null : words.changed),
    shown.map((/** @type {any} */ section) => h("section", null, h("h2", null, section.name || words.top), section.help ? h("p", { class: "quiet" }, unmarked(section.help)) : null, table(COLUMNS, section.settings, { label: section.name || words.top }))),
    shown.length ? null : nothing(search ? words.notFound : words.allDefault),
  ];
}

/** @type {import("../table.js").Column[]} */
const COLUMNS = [
  { key: "name", title: words.columns.name, cell: (one) => [h("code", null, one.name), h("div", { class: "quiet help" }, unmarked(one.help))] },
  { key: "value", title: words.columns.value, cell: (one) => (one.value === "REDACTED" ? tag("neutral", words.hidden) : h("code", { class: "setting" }, text(one.value))) },
  { key: "source", title: words.columns.source, cell: (one) => [words.sources[/** @type {"default"} */ (one.source)] ?? one.source, one.source_name ? h("div", { class: "quiet mono" }, one.source_name) : null] },
];

/**
 * The help is written for the documents: without their links and marks.
 * @param {string} help
 */
const unmarked = (help) => help.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll("`", "");

/** @param {unknown} value */
function text(value) {
  if (value === null) return words.none;
  return typeof value === "string" ? value || words.emptyText : JSON.stringify(value);
}
