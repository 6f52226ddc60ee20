/** Charts as SVG: lines, sparklines, heatmaps, waterfalls. Colours, dashes and sizes are in page.css. */

import { h, replace, svg } from "./dom.js";
import { date, isNumber, NOTHING, time } from "./figures.js";
import { table } from "./table.js";
import { texts } from "./texts.js";

/** @typedef {(number | null)[]} Values null is a gap */
/** @typedef {{name: string, values: Values, isGroup?: boolean}} Series a group is named also where it is the only one */
/** @typedef {(value: unknown) => string} Format */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./figures.js").Level} Level */
/** @typedef {{left: number, right: number, top: number, bottom: number}} Box */

const HEIGHT = 132;
const MARGIN = { left: 54, right: 6, top: 8, bottom: 20 };
const DRAG = 6;

/** What the charts of a view share: the part of time that is shown, and the moment that is pointed at. */
export class Axis extends EventTarget {
  // Seconds since the epoch.
  /** @type {[number, number] | null} */
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
    this.allTimes = this.times = [];
    /** @type {Series[]} */
    this.allSeries = this.series = [];
    /** @type {number | null} */
    this.dragged = null;
    this.x = scale(0, 1, 0, 1);
    this.legend = h("ul", { class: "legend" });
    const described = { tabindex: 0, role: "slider", "aria-label": texts.charts.label(label), "aria-valuemin": 0 };
    this.svg = svg("svg", { class: "chart", height: HEIGHT, ...described });
    this.back = h("button", { class: "small", onclick: () => this.axis.whole(), hidden: true }, texts.charts.whole);
    this.data = h("details", { class: "data", ontoggle: () => this.fillTable() }, h("summary", null, texts.charts.table), h("div"));
    const caption = h("figcaption", null, h("span", { class: "chart-title" }, label), this.legend, this.back);
    this.element = h("figure", { class: "lines" }, caption, this.svg, this.data);
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
    this.series = this.allSeries.map((each) => ({ ...each, values: kept.map((index) => each.values[index] ?? null) }));
    this.back.hidden = this.axis.range === null;
    this.drawLegend();
    this.drawLines();
  }

  /** Which sample is pointed at. */
  get index() {
    const cursor = this.axis.cursor;
    return cursor === null || !this.times.length ? null : nearest(this.times, cursor);
  }

  // The value of a series at the moment that is pointed at, else its newest.
  /** @param {Values} values */
  read(values) {
    return this.format(this.index === null ? newest(values) : values[this.index]);
  }

  drawLegend() {
    const last = Math.max(0, this.times.length - 1);
    const at = this.index === null ? null : time(this.times[this.index]);
    const several = this.series.length > 1;
    const entries = this.series.map(({ name, values, isGroup }, number) => h("li", null, several || isGroup ? [key(number), name, " "] : null, h("b", null, this.read(values))));
    replace(this.legend, at && h("li", { class: "moment" }, at), entries);
    const said = this.series.map(({ name, values }) => `${name} ${this.read(values)}`).join(", ");
    this.svg.setAttribute("aria-valuemax", String(last));
    this.svg.setAttribute("aria-valuenow", String(this.index ?? last));
    this.svg.setAttribute("aria-valuetext", `${at ?? texts.charts.newest}: ${said}`);
  }

  drawLines() {
    const { times, series } = this;
    const box = this.box();
    const values = series.flatMap((each) => each.values.filter(isNumber));
    const top = nice(Math.max(this.limit ?? 0, ...values));
    const x = (this.x = scale(times[0] ?? 0, times.at(-1) ?? 1, box.left, box.right));
    const y = scale(0, top, box.bottom, box.top);
    if (!values.length) return replace(this.svg, label((box.left + box.right) / 2, HEIGHT / 2, texts.states.none));
    replace(
      this.svg,
      [0, top / 2, top].map((value) => gridLine(box, y(value), this.format(value))),
      moments(times, box).map((moment) => label(x(moment), HEIGHT - 5, shortTime(moment, times))),
      this.limit === null ? null : svg("line", { class: "limit", x1: box.left, x2: box.right, y1: y(this.limit), y2: y(this.limit) }),
      series.map((each, number) => curve(times, each.values, number, x, y, series.length === 1)),
      this.drawCursor(box, x, y),
    );
  }

  /** @param {Box} box @param {Scale} x @param {Scale} y */
  drawCursor(box, x, y) {
    const index = this.index;
    const at = index === null ? undefined : this.times[index];
    if (index === null || at === undefined) return null;
    const dot = (/** @type {number} */ value, /** @type {number} */ number) => svg("circle", { class: `dot s${number}`, cx: x(at), cy: y(value), r: 3 });
    return svg("g", null,
      this.dragged === null ? null : this.drawSelection(box, x(this.dragged), x(at)),
      svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }),
      this.series.map(({ values }, number) => (isNumber(values[index]) ? dot(/** @type {number} */ (values[index]), number) : null)),
    );
  }

  /** @param {Box} box @param {number} from @param {number} to */
  drawSelection(box, from, to) {
    return svg("rect", { class: "selection", x: Math.min(from, to), width: Math.abs(to - from), y: box.top, height: box.bottom - box.top });
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

  // Arrows move, with Shift they mark, Enter zooms in, Escape shows all.
  /** @param {KeyboardEvent} event */
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
    const rows = this.times.map((_, index) => index).reverse();
    const moment = { key: "time", title: texts.charts.time, cell: (/** @type {number} */ index) => time(this.times[index]) };
    const columns = this.series.map(({ name, values }) => ({ key: name, title: name, cell: (/** @type {number} */ index) => this.format(values[index]) }));
    replace(place, table([moment, ...columns], rows, { label: this.svg.getAttribute("aria-label") ?? "" }));
  }
}

/**
 * A small line without axes.
 * @param {Values} values
 * @param {{label?: string, format?: Format}} options
 */
export function sparkline(values, { label: name = "", format = String } = {}) {
  const known = values.filter(isNumber);
  const [low, high, last] = [Math.min(...known), Math.max(...known), newest(values)].map(format);
  const said = known.length ? texts.charts.range(low ?? "", high ?? "", last ?? "") : texts.states.none;
  const x = scale(0, Math.max(1, values.length - 1), 1, 95);
  const y = scale(0, Math.max(...known, 1e-9), 21, 2);
  const shape = { class: "sparkline", viewBox: "0 0 96 24", width: 96, height: 24, role: "img", "aria-label": `${name} ${said}`.trim() };
  return svg("svg", shape, curve([...values.keys()], values, 0, x, y, true));
}

/**
 * How many observations fell between which bounds, over time.
 * @param {{time: number, counts: number[]}[]} columns counts from the lowest bucket to the highest
 * @param {{label: string, bounds: string[]}} options the name of each bucket
 */
export function heatmap(columns, { label: name, bounds }) {
  const most = Math.log1p(Math.max(1, ...columns.flatMap(({ counts }) => counts)));
  const cell = (/** @type {number} */ number, /** @type {number} */ column, /** @type {number} */ row) => {
    const shape = { class: `cell h${Math.ceil((Math.log1p(number) / most) * 6)}`, x: column, y: bounds.length - row - 1, width: 1, height: 1 };
    return svg("rect", shape, svg("title", null, texts.charts.cell(time(columns[column]?.time), bounds[row] ?? "", number)));
  };
  const cells = columns.flatMap(({ counts }, column) => counts.map((number, row) => (number > 0 ? cell(number, column, row) : null)));
  const viewBox = `0 0 ${Math.max(1, columns.length)} ${bounds.length}`;
  const shape = { class: "heatmap", viewBox, preserveAspectRatio: "none", height: bounds.length * 14, role: "img", "aria-label": name };
  const names = h("div", { class: "heat-scale", "aria-hidden": "true" }, [...bounds].reverse().map((bound) => h("span", null, bound)));
  const ends = [columns[0], columns.at(-1)].map((column) => h("span", null, time(column?.time)));
  return h("figure", { class: "heat" },
    h("figcaption", null, h("span", { class: "chart-title" }, name)),
    h("div", { class: "heat-body" }, names, svg("svg", shape, cells)),
    h("div", { class: "heat-ends", "aria-hidden": "true" }, ends),
    h("details", { class: "data" }, h("summary", null, texts.charts.table), bucketTable(columns, bounds, name)),
  );
}

/** @param {{counts: number[]}[]} columns @param {string[]} bounds @param {string} name */
function bucketTable(columns, bounds, name) {
  const total = (/** @type {number} */ row) => columns.reduce((sum, { counts }) => sum + (counts[row] ?? 0), 0);
  const rows = bounds.map((bound, row) => ({ bound, total: total(row) })).reverse();
  const bound = { key: "bound", title: texts.charts.bound, cell: (/** @type {any} */ row) => row.bound };
  return table([bound, { key: "total", title: texts.charts.count, cell: (row) => String(Math.round(row.total)) }], rows, { label: name });
}

// A piece of work in a waterfall: where it lies in time, in any unit.
/** @typedef {{name: Child, start: number, duration: number, depth?: number, level?: Level, text?: string, detail?: Child}} Piece */

/**
 * Pieces of work below each other, each where it lies in time.
 * @param {Piece[]} pieces
 * @param {{label: string, format: Format, end?: number}} options `end`: by default that of the last piece
 */
export function waterfall(pieces, { label: name, format, end = Math.max(1e-9, ...pieces.map(({ start, duration }) => start + duration)) }) {
  const line = (/** @type {Piece} */ piece) =>
    h("li", { class: `depth-${Math.min(piece.depth ?? 0, 8)}` },
      h("span", { class: "piece" }, piece.name),
      bar(piece.start / end, piece.duration / end, piece.level ?? "neutral"),
      h("span", { class: "length" }, piece.text ?? format(piece.duration)),
      piece.detail ? h("div", { class: "detail" }, piece.detail) : null,
    );
  return h("ol", { class: "waterfall", "aria-label": name }, pieces.map(line));
}

/** @param {number} start @param {number} length @param {Level} level shares of the whole */
function bar(start, length, level) {
  const [x, width] = [start, length].map((share) => Math.max(0, Math.min(1, share)) * 1_000);
  const shown = svg("rect", { class: level, x: Math.min(996, x ?? 0), width: Math.max(4, width ?? 0), height: 10 });
  const shape = { class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", shape, svg("rect", { class: "track", width: 1000, height: 10 }), shown);
}

/** @typedef {{(value: number): number, back: (place: number) => number}} Scale */

/** @param {number} from @param {number} to @param {number} low @param {number} high @returns {Scale} */
function scale(from, to, low, high) {
  const ratio = (high - low) / (to - from || 1);
  const place = (/** @type {number} */ value) => low + (value - from) * ratio;
  return Object.assign(place, { back: (/** @type {number} */ pixels) => from + (pixels - low) / ratio });
}

/** @param {number[]} times @param {Values} values @param {number} number @param {Scale} x @param {Scale} y @param {boolean} filled */
function curve(times, values, number, x, y, filled) {
  return runsOf(values).map((run) => {
    const points = run.map((index) => [round(x(/** @type {number} */ (times[index]))), round(y(/** @type {number} */ (values[index])))]);
    const [first, last] = [points[0] ?? [0, 0], points.at(-1) ?? [0, 0]];
    if (points.length === 1) return svg("circle", { class: `dot s${number}`, cx: first[0], cy: first[1], r: 1.5 });
    const path = points.join("L");
    const area = filled ? svg("path", { class: "area", d: `M${first[0]},${round(y(0))}L${path}L${last[0]},${round(y(0))}Z` }) : null;
    return [area, svg("path", { class: `line s${number}`, d: `M${path}` })];
  });
}

// Indexes of values that follow each other without a gap.
/** @param {Values} values */
function runsOf(values) {
  /** @type {number[][]} */
  const runs = [[]];
  values.forEach((value, index) => (isNumber(value) ? runs.at(-1)?.push(index) : runs.at(-1)?.length && runs.push([])));
  return runs.filter((run) => run.length);
}

/** @param {number} x @param {number} y @param {string} text @param {"middle" | "end"} [anchor] */
const label = (x, y, text, anchor = "middle") => svg("text", { class: "tick", x, y, "text-anchor": anchor }, text);

/** @param {Box} box @param {number} y @param {string} text */
function gridLine(box, y, text) {
  return svg("g", null, svg("line", { class: "mesh", x1: box.left, x2: box.right, y1: y, y2: y }), label(box.left - 8, y + 3.5, text, "end"));
}

// The sign of a series in the legend: its dashes tell it apart without colours.
/** @param {number} number */
function key(number) {
  const shape = { class: "key", viewBox: "0 0 18 6", width: 18, height: 6, "aria-hidden": "true" };
  return svg("svg", shape, svg("path", { class: `line s${number}`, d: "M0,3H18" }));
}

/** @param {number[]} times @param {number} moment */
function nearest(times, moment) {
  const far = times.map((at) => Math.abs(at - moment));
  return far.indexOf(Math.min(...far));
}

/** @param {Values} values */
const newest = (values) => values.filter(isNumber).at(-1) ?? null;

// The end of an axis that is easy to read.
/** @param {number} most */
function nice(most) {
  if (!(most > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return size * (/** @type {number} */ ([1, 2, 4, 5, 10].find((step) => step * size >= most)));
}

/** @param {number[]} times @param {Box} box */
function moments(times, box) {
  if (times.length < 2) return [];
  const parts = Math.max(1, Math.min(4, Math.floor((box.right - box.left) / 130)));
  return Array.from({ length: parts }, (_, part) => times[Math.round(((part + 0.5) / parts) * (times.length - 1))] ?? 0);
}

/** @param {number} moment @param {number[]} times */
function shortTime(moment, times) {
  const isLong = (times.at(-1) ?? 0) - (times[0] ?? 0) > 86_400;
  return isLong ? date(moment) : time(moment);
}

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10;
