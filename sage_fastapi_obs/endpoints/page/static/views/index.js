/** The views of the page, in the order of the navigation. */

import { texts } from "../texts.js";

/** @typedef {typeof import("../stream.js").live} Live */
// What a view is given. `rest` is what stands behind its name in the address, decoded; `signal` is aborted when it is left.
/** @typedef {{params: URLSearchParams, rest: string, live: Live, seconds: number, go: (hash: string) => void, signal: AbortSignal}} Context */
/** @typedef {{title: string, show: (place: HTMLElement, context: Context) => (() => void) | void}} View */
/** @typedef {keyof typeof texts.page.groups} GroupName */

/** @type {{name: string, group: GroupName, title: string, load: () => Promise<View>}[]} */
export const views = [
  { name: "overview", group: "traffic", title: texts.overview.title, load: () => import("./overview.js") },
  { name: "routes", group: "traffic", title: texts.routes.title, load: () => import("./routes.js") },
  { name: "requests", group: "traffic", title: texts.requests.title, load: () => import("./requests.js") },
  { name: "issues", group: "traffic", title: texts.issues.title, load: () => import("./issues.js") },
  { name: "alerts", group: "promises", title: texts.alerts.title, load: () => import("./alerts.js") },
  { name: "levels", group: "promises", title: texts.sla.title, load: () => import("./levels.js") },
  { name: "health", group: "promises", title: texts.health.title, load: () => import("./health.js") },
  { name: "metrics", group: "process", title: texts.metrics.title, load: () => import("./metrics.js") },
  { name: "workers", group: "process", title: texts.workers.title, load: () => import("./workers.js") },
  { name: "stacks", group: "process", title: texts.stacks.title, load: () => import("./stacks.js") },
  { name: "settings", group: "setup", title: texts.settings.title, load: () => import("./settings.js") },
  { name: "loggers", group: "setup", title: texts.loggers.title, load: () => import("./loggers.js") },
];
