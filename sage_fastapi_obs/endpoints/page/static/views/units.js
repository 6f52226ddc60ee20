/** How the values of a metric are written: by its unit, and by what was made of them. */

import { bytes, date, milliseconds, NOTHING, percent, plain } from "../figures.js";

/** @typedef {(value: unknown) => string} Format */

/** @type {Record<string, Format>} */
const UNITS = { seconds: (value) => milliseconds(typeof value === "number" ? value * 1_000 : null), bytes, ratio: percent };

/**
 * @param {{name: string, unit: string}} metric
 * @param {string} [statistic] of its values; without it the values themselves
 * @returns {Format}
 */
export function formatOf({ name, unit }, statistic) {
  const format = /_(time|timestamp)_seconds$/.test(name) ? date : (UNITS[unit] ?? plain);
  return statistic === "rate" ? perSecond(unit === "bytes" ? bytes : plain) : format;
}

/** @param {Format} format @returns {Format} */
const perSecond = (format) => (value) => (format(value) === NOTHING ? NOTHING : `${format(value)}/s`);

// Labels as people write them: `route=/items status=200`.
/** @param {Record<string, string>} labels */
export const labelsText = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" ");
