/** The frame of the page: navigation, the badge of the stream, the span of time, colours, the login; and which view is shown. */

import { access } from "./api.js";
import { h, replace } from "./dom.js";
import { ago } from "./figures.js";
import { showLogin } from "./login.js";
import { live } from "./stream.js";
import { texts } from "./texts.js";
import { views } from "./views/index.js";

const SPAN = "sage-obs-seconds";
const THEME = "sage-obs-theme";
const words = texts.page;

// A choice that stays; a browser that keeps nothing is no reason to show nothing.
/** @param {string} name @param {string} [value] */
function choice(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

const main = h("main", { id: "content", tabindex: "-1" });
const service = h("span", { class: "service" }, words.title);
const environment = h("span", { class: "tag neutral", hidden: true });
const dot = h("span", { class: "dot", "aria-hidden": "true" });
const badge = h("button", { class: "badge", onclick: () => (live.state === "paused" ? live.resume() : live.pause()) }, dot, h("span"));
const navigation = h("nav", { "aria-label": words.navigation });

function build() {
  /** @param {Event} event */
  const onclick = (event) => (event.preventDefault(), main.focus());
  const skip = h("a", { class: "skip", href: "#content", onclick }, words.skip);
  const header = h("header", null, h("div", { class: "who" }, service, environment), h("div", { class: "controls" }, badge, spanChoice(), themeChoice()));
  document.body.append(skip, navigation, header, main);
  replace(navigation, Object.entries(words.groups).map(([group, title]) => navigationGroup(group, title)));
}

/** @param {string} group @param {string} title */
function navigationGroup(group, title) {
  const members = views.filter((view) => view.group === group);
  if (!members.length) return null;
  const links = members.map((view) => h("li", null, h("a", { href: `#/${view.name}`, "data-view": view.name }, view.title)));
  return h("div", { class: "group" }, h("h2", null, title), h("ul", null, links));
}

function spanChoice() {
  const options = words.spans.map(([seconds, name]) => h("option", { value: seconds, selected: seconds === chosenSpan() }, name));
  const select = h("select", { "aria-label": words.span, onchange: () => changeSpan(Number(select.value)) }, options);
  return select;
}

function chosenSpan() {
  const wanted = Number(choice(SPAN));
  return words.spans.some(([seconds]) => seconds === wanted) ? wanted : 300;
}

/** @param {number} seconds */
function changeSpan(seconds) {
  choice(SPAN, String(seconds));
  live.open(seconds);
  showView();
}

function themeChoice() {
  const wanted = choice(THEME) ?? "auto";
  document.documentElement.dataset.theme = wanted;
  const onchange = () => (document.documentElement.dataset.theme = choice(THEME, select.value) ?? select.value);
  const options = Object.entries(words.themes).map(([value, name]) => h("option", { value, selected: value === wanted }, name));
  const select = h("select", { "aria-label": words.theme, onchange }, options);
  return select;
}

/** @param {typeof live} now */
function showState(now) {
  const { state, heard, answer } = now;
  const silence = heard === null ? texts.live.never : texts.live.lost(ago((Date.now() - heard) / 1_000));
  badge.dataset.state = state;
  badge.title = state === "paused" ? texts.live.resume : texts.live.pause;
  replace(/** @type {Element} */ (badge.lastElementChild), state === "lost" ? silence : texts.live[state]);
  document.body.classList.toggle("stale", state === "lost");
  if (answer?.state === "value") showService(answer.value);
}

/** @param {any} overview */
function showService(overview) {
  const version = overview.version ? ` ${overview.version}` : "";
  if (typeof overview.service === "string") service.textContent = overview.service + version;
  environment.hidden = typeof overview.environment !== "string";
  environment.textContent = overview.environment ?? "";
}

/** Read an address of the page: `#/requests/ID?failed=true`. */
function here() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name = "", ...rest] = path.split("/");
  return { name: name || "overview", rest: decoded(rest.join("/")), params: new URLSearchParams(query) };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @type {() => void} */
let leave = () => {};

async function showView() {
  const { name, rest, params } = here();
  const view = views.find((each) => each.name === name) ?? views[0];
  leave();
  const controller = new AbortController();
  leave = () => controller.abort();
  mark(view?.name ?? "");
  // What stays of the last view would stand below the name of this one.
  replace(main, h("p", { class: "quiet" }, words.loading));
  try {
    const module = await view?.load();
    if (controller.signal.aborted || !module) return;
    const place = h("div", { class: `view ${view?.name}` });
    replace(main, place);
    const { signal } = controller;
    const go = (/** @type {string} */ hash) => void (location.hash = hash);
    const stop = module.show(place, { params, rest, live, seconds: live.seconds, go, signal });
    leave = () => (controller.abort(), stop?.());
    document.title = `${rest ? `${rest} · ` : ""}${module.title} · ${service.textContent}`;
  } catch (error) {
    console.error(error);
    replace(main, h("p", { class: "problem" }, words.broken));
  }
}

// Say in the navigation where one is.
/** @param {string} name */
function mark(name) {
  for (const link of navigation.querySelectorAll("a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  navigation.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

build();
live.subscribe(showState);
live.open(chosenSpan());
showView();
addEventListener("hashchange", () => {
  showView();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
access.addEventListener("login", () => showLogin(() => (live.resume(), showView())));
