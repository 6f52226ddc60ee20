/** Files of a case: what happened in a request, as `sage-obs case` writes it too. Whatever is in such a file is data. */

import { parsed } from "./api.js";
import { h, replace } from "./dom.js";
import { problem } from "./figures.js";
import { texts } from "./texts.js";

const words = texts.request;
const FORMAT = "sage-obs-case/1";
export const MOST_BYTES = 16 * 1024 * 1024;

/** @type {any} */
let opened = null;

/** The case that was opened last; null after a reload. */
export const openedCase = () => opened;

// Save what was answered for an id as a file.
/** @param {string} id @param {any} answer */
export function saveCase(id, answer) {
  const content = JSON.stringify({ ...answer, lines: [], format: FORMAT, id });
  const link = h("a", { href: URL.createObjectURL(new Blob([content], { type: "application/json" })), download: `case-${id.replace(/[^A-Za-z0-9_-]+/g, "-").slice(0, 60)}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A field that opens a file.
/** @param {() => void} onopen */
export function caseFile(onopen) {
  const said = h("span");
  const input = h("input", { type: "file", accept: ".json,.gz,application/json,application/gzip", onchange: () => open() });
  async function open() {
    const file = input.files?.[0];
    const found = file ? await read(file) : null;
    replace(said, typeof found === "string" ? problem(found) : null);
    if (found && typeof found === "object") [opened] = [found, onopen()];
    input.value = "";
  }
  return h("label", { class: "case" }, words.open, " ", input, said);
}

// Read a case; a text says why it is none.
/** @param {File} file @returns {Promise<any>} */
async function read(file) {
  if (file.size > MOST_BYTES) return words.tooLarge;
  try {
    const packed = new Uint8Array(await file.slice(0, 2).arrayBuffer());
    const isPacked = packed[0] === 0x1f && packed[1] === 0x8b;
    const text = await bounded(isPacked ? file.stream().pipeThrough(new (/** @type {any} */ (globalThis).DecompressionStream)("gzip")) : file.stream());
    const found = text === null ? null : parsed(text);
    if (text === null) return words.tooLarge;
    return found?.format === FORMAT && Array.isArray(found.stories) ? found : words.noCase;
  } catch {
    return words.noCase;
  }
}

// Read a text; null where it is too long, which a small file that is packed can be.
/** @param {ReadableStream<Uint8Array>} stream */
async function bounded(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const parts = [];
  for (let size = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return parts.join("") + decoder.decode();
    size += value.length;
    if (size > MOST_BYTES) return reader.cancel().then(() => null);
    parts.push(decoder.decode(value, { stream: true }));
  }
}
