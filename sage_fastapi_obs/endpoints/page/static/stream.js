/** The newest overview, by server-sent events: one stream for the page, paused while nobody looks. */

import { address, get, parsed, unavailable } from "./api.js";
import { texts } from "./texts.js";

/** @typedef {import("./api.js").Answer} Answer */
/** @typedef {"connecting" | "live" | "paused" | "lost"} State */

const AGAIN_MS = [500, 1_000, 2_000, 5_000];
const SILENCE_MS = 12_000;
const STALE_MS = 60_000;

class Live {
  /** @type {State} */
  state = "connecting";
  /** @type {Answer | null} the newest overview */
  answer = null;
  // When it came, in milliseconds since the epoch.
  /** @type {number | null} */
  heard = null;
  seconds = 300;

  /** @type {Set<(live: Live) => void>} */
  #listeners = new Set();
  /** @type {EventSource | null} */
  #source = null;
  #again = 0;
  #tries = 0;
  #asked = false;
  #started = false;

  // Be told of each overview and each change of state; the first time at once.
  /** @param {(live: Live) => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this);
    return () => void this.#listeners.delete(listener);
  }

  // Listen to the last seconds.
  /** @param {number} seconds */
  open(seconds) {
    if (!this.#started) this.#start();
    else if (seconds === this.seconds) return;
    this.answer = null;
    this.seconds = seconds;
    this.#connect();
  }

  #start() {
    this.#started = true;
    document.addEventListener("visibilitychange", () => this.#look());
    setInterval(() => this.#check(), 1_000);
  }

  /** Stop until somebody wants to go on. */
  pause() {
    this.#asked = true;
    this.#close("paused");
  }

  resume() {
    this.#asked = false;
    this.#tries = 0;
    this.#connect();
  }

  #look() {
    if (document.hidden && !this.#asked) this.#close("paused");
    else if (!this.#asked) this.resume();
  }

  #connect() {
    if (this.#asked || document.hidden) return;
    this.#close("connecting");
    const source = new EventSource(address("live", { seconds: this.seconds }));
    source.onmessage = (event) => this.#take(overviewOf(parsed(event.data)));
    source.onerror = () => this.#lose();
    this.#source = source;
  }

  /** @param {State} state */
  #close(state) {
    clearTimeout(this.#again);
    this.#source?.close();
    this.#source = null;
    this.#be(state);
  }

  /** @param {Answer} answer */
  #take(answer) {
    this.#tries = 0;
    this.answer = answer;
    this.heard = Date.now();
    this.#be("live");
  }

  /** The stream has ended: ask once, which tells the reason, and listen again later. */
  async #lose() {
    this.#close("lost");
    this.#again = setTimeout(() => this.#connect(), AGAIN_MS[Math.min(this.#tries++, AGAIN_MS.length - 1)]);
    const asked = await get("overview", { seconds: this.seconds });
    const answer = asked.state === "value" ? overviewOf(asked.value) : asked;
    if (this.state === "live" || this.state === "paused") return;
    if (answer.state === "value") this.heard = Date.now();
    if (answer.state === "value" || this.#isOld()) this.answer = answer;
    this.#be(this.state);
  }

  /** A connection over which nothing comes is lost too. */
  #check() {
    if (this.state === "live" && Date.now() - (this.heard ?? 0) > SILENCE_MS) this.#lose();
    if (this.state === "lost" && this.#isOld() && this.answer?.state === "value") this.answer = unavailable(texts.reasons.silent);
    if (this.state !== "live") this.#be(this.state);
  }

  #isOld() {
    return this.heard === null || this.answer?.state !== "value" || Date.now() - this.heard > STALE_MS;
  }

  /** @param {State} state */
  #be(state) {
    this.state = state;
    for (const listener of this.#listeners) listener(this);
  }
}

/** @param {any} value @returns {Answer} */
function overviewOf(value) {
  return value?.figures && typeof value.figures === "object" ? { state: "value", value } : unavailable(texts.reasons.garbage);
}

export const live = new Live();
