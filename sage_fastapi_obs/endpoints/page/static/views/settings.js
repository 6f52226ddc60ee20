/** The settings in force, and where each value came from. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { nothing, part, tag } from "../figures.js";
import { table } from "../table.js";
import { texts } from "../texts.js";
import { awaiting, column, matches, quiet, redraw, searchField } from "./redraw.js";

const words = texts.settings;

export const title = words.title;

/** @param {HTMLElement} place @param {import("./index.js").Context} context */
export function show(place, { signal }) {
  const body = awaiting();
  let search = "";
  let all = false;
  /** @type {import("../api.js").Answer | null} */
  let answer = null;
  const draw = () => answer && !signal.aborted && redraw(body, part(answer, (found) => tree(found, search, all)));
  const field = searchField(words.search, "", (text) => ((search = text), draw()));
  const box = h("input", { type: "checkbox", onchange: () => ((all = box.checked), draw()) });
  replace(place, h("h1", null, title), h("div", { class: "controls" }, field, h("label", { class: "choice" }, box, " ", words.defaults)), body);
  get("settings", {}, { signal }).then((found) => ((answer = found), draw()));
}

/** @param {any} found @param {string} search @param {boolean} all whether those with their default are shown, too */
function tree({ preset, remarks, sections }, search, all) {
  const isShown = (/** @type {any} */ section, /** @type {any} */ one) => (all || search || one.source !== "default") && hasWords(section, one, search);
  const shown = sections.map((/** @type {any} */ section) => ({ ...section, settings: section.settings.filter((/** @type {any} */ one) => isShown(section, one)) }));
  const filled = shown.filter((/** @type {any} */ section) => section.settings.length);
  return [
    remarks.length ? h("section", null, h("h2", null, words.remarks), h("ul", { class: "reasons" }, remarks.map(remark))) : null,
    h("p", { class: "quiet", role: "status" }, preset ? words.preset(preset) : words.noPreset, " ", all || search ? null : words.changed),
    filled.map(sectionOf),
    filled.length ? null : nothing(search ? words.notFound : words.allDefault),
  ];
}

/** @param {any} section @param {any} one @param {string} search */
const hasWords = ({ name }, one, search) => matches(search, `${name}.${one.name}`, one.help, text(one.value), one.source_name);

/** @param {string} said */
const remark = (said) => h("li", { class: "remark" }, tag("warning", words.remark), h("span", null, said));

/** @param {any} section */
function sectionOf({ name, help, settings }) {
  return h("section", null, h("h2", null, name || words.top), help ? quiet(unmarked(help)) : null, table(COLUMNS, settings, { label: name || words.top }));
}

const COLUMNS = [
  column("name", words.columns.name, (one) => [h("code", null, one.name), h("div", { class: "quiet help" }, unmarked(one.help))]),
  column("value", words.columns.value, ({ value }) => (value === "REDACTED" ? tag("neutral", words.hidden) : h("code", { class: "setting" }, text(value)))),
  column("source", words.columns.source, sourceOf),
];

/** @param {any} one */
function sourceOf({ source, source_name: name }) {
  return [words.sources[/** @type {"default"} */ (source)] ?? source, name ? h("div", { class: "quiet mono" }, name) : null];
}

// The help is written for the documents: without their links and marks.
/** @param {string} help */
const unmarked = (help) => help.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll("`", "");

/** @param {unknown} value */
function text(value) {
  if (value === null) return words.none;
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return value.join(", ") || words.emptyText;
  return typeof value === "string" ? value || words.emptyText : JSON.stringify(value);
}
