/** Charts as SVG: lines, sparklines, heatmaps, waterfalls. Colours, dashes and sizes are in page.css. */

import { h, replace, svg } from "./dom.js";
import { isNumber, NOTHING, time } from "./figures.js";
import { table } from "./table.js";
import { texts } from "./texts.js";

/** @typedef {(number | null)[]} Values null is a gap */
/** @typedef {{name: string, values: Values}} Series */
/** @typedef {(value: unknown) => string} Format */
/** @typedef {{left: number, right: number, top: number, bottom: number}} Box */

const HEIGHT = 132;
const MARGIN = { left: 54, right: 6, top: 8, bottom: 20 };
const DRAG = 6;

/** What the charts of a view share: the part of time that is shown, and the moment that is pointed at. */
export class Axis extends EventTarget {
  /**
   * Seconds since the epoch.
   * @type {[number, number] | null}
   */
  range = null;
  /** @type {number | null} */
  cursor = null;

  /** @param {number} from @param {number} to */
  zoom(from, to) {
    this.range = [Math.min(from, to), Math.max(from, to)];
    this.point(null);
  }

  whole() {
    this.range = null;
    this.point(null);
  }

  /** @param {number | null} moment */
  point(moment) {
    this.cursor = moment;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Show series over time in a figure with a legend; arrow keys and the pointer read it, dragging zooms, Escape goes back.
 * @param {Series[]} series
 * @param {{label: string, times: number[], format?: Format, axis?: Axis, limit?: number | null}} options times in seconds since the epoch
 */
export function lines(series, options) {
  return new LineChart(options).update(options.times, series).element;
}

/** A chart whose data changes. */
export class LineChart {
  /** @param {{label: string, format?: Format, axis?: Axis, limit?: number | null}} options */
  constructor({ label, format = (value) => String(value ?? NOTHING), axis = new Axis(), limit = null }) {
    this.format = format;
    this.axis = axis;
    this.limit = limit;
    /** @type {number[]} */
    this.allTimes = [];
    /** @type {Series[]} */
    this.allSeries = [];
    /** @type {number[]} */
    this.times = [];
    /** @type {Series[]} */
    this.series = [];
    /** @type {number | null} */
    this.dragged = null;
    this.x = scale(0, 1, 0, 1);
    this.legend = h("ul", { class: "legend" });
    this.svg = svg("svg", { class: "chart", height: HEIGHT, tabindex: 0, role: "slider", "aria-label": texts.charts.label(label), "aria-valuemin": 0 });
    this.back = h("button", { class: "small", onclick: () => this.axis.whole(), hidden: true }, texts.charts.whole);
    this.data = h("details", { class: "data", ontoggle: () => this.fillTable() }, h("summary", null, texts.charts.table), h("div"));
    this.element = h("figure", { class: "lines" }, h("figcaption", null, h("span", { class: "chart-title" }, label), this.legend, this.back), this.svg, this.data);
    this.listen();
  }

  listen() {
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.axis.addEventListener("change", () => this.draw());
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => this.axis.point(this.momentAt(event.offsetX)));
    this.svg.addEventListener("pointerup", (event) => this.release(event));
    this.svg.addEventListener("pointercancel", () => (this.dragged = null));
    this.svg.addEventListener("pointerleave", () => this.axis.point(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => this.axis.point(null));
  }

  /** @param {number[]} times @param {Series[]} series */
  update(times, series) {
    this.allTimes = times;
    this.allSeries = series;
    this.draw();
    return this;
  }

  draw() {
    const [first, last] = this.axis.range ?? [-Infinity, Infinity];
    const kept = this.allTimes.flatMap((moment, index) => (moment >= first && moment <= last ? [index] : []));
    this.times = kept.map((index) => /** @type {number} */ (this.allTimes[index]));
    this.series = this.allSeries.map(({ name, values }) => ({ name, values: kept.map((index) => values[index] ?? null) }));
    this.back.hidden = this.axis.range === null;
    this.drawLegend();
    this.drawLines();
  }

  /** Which sample is pointed at. */
  get index() {
    const cursor = this.axis.cursor;
    return cursor === null || !this.times.length ? null : nearest(this.times, cursor);
  }

  drawLegend() {
    const series = this.series;
    const index = this.index;
    const at = index === null ? null : this.times[index];
    replace(this.legend, at ? h("li", { class: "moment" }, time(at)) : null, series.map(({ name, values }, number) => h("li", null, series.length > 1 ? key(number) : null, series.length > 1 ? `${name} ` : null, h("b", null, this.format(index === null ? newest(values) : values[index])))));
    const said = series.map(({ name, values }) => `${name} ${this.format(index === null ? newest(values) : values[index])}`);
    this.svg.setAttribute("aria-valuemax", String(Math.max(0, (this.times.length ?? 0) - 1)));
    this.svg.setAttribute("aria-valuenow", String(index ?? Math.max(0, (this.times.length ?? 0) - 1)));
    this.svg.setAttribute("aria-valuetext", `${at ? time(at) : texts.charts.newest}: ${said.join(", ")}`);
  }

  drawLines() {
    const times = this.times;
    const series = this.series;
    const box = this.box();
    const top = nice(Math.max(this.limit ?? 0, ...series.flatMap(({ values }) => values.filter(isNumber))));
    const x = scale(times[0] ?? 0, times.at(-1) ?? 1, box.left, box.right);
    const y = scale(0, top, box.bottom, box.top);
    this.x = x;
    const empty = series.every(({ values }) => !values.some(isNumber));
    replace(
      this.svg,
      empty ? null : [0, top / 2, top].map((value) => gridLine(box, y(value), this.format(value))),
      times.length > 1 ? moments(times, box).map((moment) => svg("text", { class: "tick", x: x(moment), y: HEIGHT - 5, "text-anchor": "middle" }, shortTime(moment, times))) : null,
      empty ? svg("text", { class: "tick", x: (box.left + box.right) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, texts.states.none) : null,
      this.limit === null || empty ? null : svg("line", { class: "limit", x1: box.left, x2: box.right, y1: y(this.limit), y2: y(this.limit) }),
      series.map(({ values }, number) => curve(times, values, number, x, y, series.length === 1)),
      this.drawCursor(box, x, y),
    );
  }

  /** @param {Box} box @param {Scale} x @param {Scale} y */
  drawCursor(box, x, y) {
    const at = this.index === null ? undefined : this.times[this.index];
    if (at === undefined || this.index === null) return null;
    const index = this.index;
    const dots = this.series.map(({ values }, number) => (isNumber(values[index]) ? svg("circle", { class: `dot s${number}`, cx: x(at), cy: y(/** @type {number} */ (values[index])), r: 3 }) : null));
    const from = this.dragged === null ? null : svg("rect", { class: "selection", x: Math.min(x(this.dragged), x(at)), width: Math.abs(x(at) - x(this.dragged)), y: box.top, height: box.bottom - box.top });
    return svg("g", null, from, svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }), dots);
  }

  /** @returns {Box} */
  box() {
    return { left: MARGIN.left, right: Math.max(MARGIN.left + 20, this.svg.clientWidth - MARGIN.right), top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
  }

  /** @param {number} offset in pixels */
  momentAt(offset) {
    const times = this.times;
    if (!times.length) return null;
    const moment = this.x.back(offset);
    return /** @type {number} */ (times[nearest(times, moment)]);
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.pointerType !== "mouse") return;
    this.svg.setPointerCapture(event.pointerId);
    this.dragged = this.momentAt(event.offsetX);
  }

  /** @param {PointerEvent} event */
  release(event) {
    const [from, to] = [this.dragged, this.momentAt(event.offsetX)];
    this.dragged = null;
    if (from !== null && to !== null && Math.abs(this.x(to) - this.x(from)) > DRAG) this.axis.zoom(from, to);
  }

  /**
   * Arrows move, with Shift they mark, Enter zooms in, Escape shows all.
   * @param {KeyboardEvent} event
   */
  key(event) {
    const times = this.times;
    const index = this.index ?? times.length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -times.length, End: times.length };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (step !== undefined && times.length) this.step(times, Math.min(times.length - 1, Math.max(0, index + step)), event.shiftKey);
    else if (event.key === "Enter" && this.dragged !== null && this.axis.cursor !== null) this.axis.zoom(this.dragged, this.axis.cursor);
    else if (event.key === "Escape") this.axis.whole();
    else return;
    if (event.key === "Enter" || event.key === "Escape") this.dragged = null;
    event.preventDefault();
  }

  /** @param {number[]} times @param {number} index @param {boolean} marked */
  step(times, index, marked) {
    this.dragged = marked ? (this.dragged ?? this.axis.cursor) : null;
    this.axis.point(/** @type {number} */ (times[index]));
  }

  fillTable() {
    const place = /** @type {Element} */ (this.data.lastElementChild);
    if (!this.data.open) return replace(place);
    const rows = this.times.map((moment, index) => ({ moment, values: this.series.map(({ values }) => values[index]) })).reverse();
    const columns = this.series.map(({ name }, number) => ({ key: name, title: name, align: /** @type {const} */ ("right"), cell: (/** @type {any} */ row) => this.format(row.values[number]) }));
    replace(place, table([{ key: "time", title: texts.charts.time, cell: (row) => time(row.moment) }, ...columns], rows, { label: this.data.textContent ?? "" }));
  }
}

/**
 * A small line without axes.
 * @param {Values} values
 * @param {{label?: string, format?: Format}} options
 */
export function sparkline(values, { label = "", format = String } = {}) {
  const known = values.filter(isNumber);
  const said = known.length ? texts.charts.range(format(Math.min(...known)), format(Math.max(...known)), format(newest(values))) : texts.states.none;
  const x = scale(0, Math.max(1, values.length - 1), 1, 95);
  const y = scale(0, Math.max(...known, 1e-9), 21, 2);
  return svg("svg", { class: "sparkline", viewBox: "0 0 96 24", width: 96, height: 24, role: "img", "aria-label": `${label} ${said}`.trim() }, curve(values.map((_, index) => index), values, 0, x, y, true));
}

/**
 * How many observations fell between which bounds, over time.
 * @param {{time: number, counts: number[]}[]} columns counts from the lowest bucket to the highest
 * @param {{label: string, bounds: string[]}} options the name of each bucket
 */
export function heatmap(columns, { label, bounds }) {
  const most = Math.max(1, ...columns.flatMap(({ counts }) => counts));
  const rows = bounds.length;
  const cells = columns.flatMap(({ time: at, counts }, column) => counts.map((number, row) => (number > 0 ? svg("rect", { class: `cell h${Math.ceil((Math.log1p(number) / Math.log1p(most)) * 6)}`, x: column, y: rows - row - 1, width: 1, height: 1 }, svg("title", null, texts.charts.cell(time(at), bounds[row] ?? "", number))) : null)));
  const picture = svg("svg", { class: "heatmap", viewBox: `0 0 ${Math.max(1, columns.length)} ${rows}`, preserveAspectRatio: "none", height: rows * 14, role: "img", "aria-label": label }, cells);
  const total = (/** @type {number} */ row) => columns.reduce((sum, { counts }) => sum + (counts[row] ?? 0), 0);
  const data = bounds.map((bound, row) => ({ bound, total: total(row) })).reverse();
  const list = table([{ key: "bound", title: texts.charts.bound, cell: (row) => row.bound }, { key: "total", title: texts.charts.count, align: "right", cell: (row) => String(Math.round(row.total)) }], data, { label });
  const scaleOf = h("div", { class: "heat-scale", "aria-hidden": "true" }, [...bounds].reverse().map((bound) => h("span", null, bound)));
  const ends = h("div", { class: "heat-ends", "aria-hidden": "true" }, h("span", null, time(columns[0]?.time)), h("span", null, time(columns.at(-1)?.time)));
  return h("figure", { class: "heat" }, h("figcaption", null, h("span", { class: "chart-title" }, label)), h("div", { class: "heat-body" }, scaleOf, picture), ends, h("details", { class: "data" }, h("summary", null, texts.charts.table), list));
}

/**
 * Pieces of work below each other, each where it lies in time.
 * @typedef {{name: import("./dom.js").Child, start: number, duration: number, depth?: number, level?: "good" | "warning" | "bad" | "neutral", text?: string, detail?: import("./dom.js").Child}} Piece
 * @param {Piece[]} rows start and duration in one unit
 * @param {{label: string, format: Format, end?: number}} options
 */
export function waterfall(rows, { label, format, end = Math.max(1e-9, ...rows.map(({ start, duration }) => start + duration)) }) {
  const width = (/** @type {number} */ value) => Math.max(0, Math.min(1000, (value / end) * 1000));
  return h("ol", { class: "waterfall", "aria-label": label }, rows.map(({ name, start, duration, depth = 0, level = "neutral", text, detail }) => h("li", { class: `depth-${Math.min(depth, 8)}` }, h("span", { class: "piece" }, name), svg("svg", { class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "track", width: 1000, height: 10 }), svg("rect", { class: level, x: Math.min(996, width(start)), width: Math.max(4, width(duration)), height: 10 })), h("span", { class: "length" }, text ?? format(duration)), detail ? h("div", { class: "detail" }, detail) : null)));
}

/** @typedef {{(value: number): number, back: (place: number) => number}} Scale */

/** @param {number} from @param {number} to @param {number} low @param {number} high @returns {Scale} */
function scale(from, to, low, high) {
  const size = to - from || 1;
  return Object.assign((/** @type {number} */ value) => low + ((value - from) / size) * (high - low), { back: (/** @type {number} */ place) => from + ((place - low) / (high - low)) * size });
}

/** @param {number[]} times @param {Values} values @param {number} number @param {Scale} x @param {Scale} y @param {boolean} filled */
function curve(times, values, number, x, y, filled) {
  const runs = runsOf(values);
  const points = (/** @type {number[]} */ run) => run.map((index) => `${round(x(/** @type {number} */ (times[index])))},${round(y(/** @type {number} */ (values[index])))}`);
  const ends = (/** @type {number[]} */ run) => [round(x(/** @type {number} */ (times[run[0] ?? 0]))), round(x(/** @type {number} */ (times[run.at(-1) ?? 0])))];
  return runs.map((run) => [
    filled && run.length > 1 ? svg("path", { class: "area", d: `M${ends(run)[0]},${round(y(0))}L${points(run).join("L")}L${ends(run)[1]},${round(y(0))}Z` }) : null,
    run.length > 1 ? svg("path", { class: `line s${number}`, d: `M${points(run).join("L")}` }) : svg("circle", { class: `dot s${number}`, cx: ends(run)[0], cy: points(run)[0]?.split(",")[1], r: 1.5 }),
  ]);
}

/**
 * Indexes of values that follow each other without a gap.
 * @param {Values} values
 */
function runsOf(values) {
  /** @type {number[][]} */
  const runs = [[]];
  values.forEach((value, index) => (isNumber(value) ? runs.at(-1)?.push(index) : runs.at(-1)?.length && runs.push([])));
  return runs.filter((run) => run.length);
}

/** @param {Box} box @param {number} y @param {string} text */
const gridLine = (box, y, text) => svg("g", null, svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }), svg("text", { class: "tick", x: box.left - 8, y: y + 3.5, "text-anchor": "end" }, text));

/**
 * The sign of a series in the legend: its dashes tell it apart without colours.
 * @param {number} number
 */
const key = (number) => svg("svg", { class: "key", viewBox: "0 0 18 6", width: 18, height: 6, "aria-hidden": "true" }, svg("path", { class: `line s${number}`, d: "M0,3H18" }));

/** @param {number[]} times @param {number} moment */
const nearest = (times, moment) => times.reduce((best, at, index) => (Math.abs(at - moment) < Math.abs(/** @type {number} */ (times[best]) - moment) ? index : best), 0);

/** @param {Values} values */
const newest = (values) => values.filter(isNumber).at(-1) ?? null;

/**
 * The end of an axis that is easy to read.
 * @param {number} most
 */
function nice(most) {
  if (!(most > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return size * (/** @type {number} */ ([1, 2, 4, 5, 10].find((step) => step * size >= most)));
}

/** @param {number[]} times @param {Box} box */
function moments(times, box) {
  const parts = Math.max(1, Math.min(4, Math.floor((box.right - box.left) / 130)));
  return Array.from({ length: parts }, (_, part) => /** @type {number} */ (times[Math.round(((part + 0.5) / parts) * (times.length - 1))]));
}

/** @param {number} moment @param {number[]} times */
function shortTime(moment, times) {
  const long = /** @type {number} */ (times.at(-1)) - /** @type {number} */ (times[0]) > 86_400;
  return new Date(moment * 1_000).toLocaleString("en-GB", long ? { weekday: "short", hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10;
