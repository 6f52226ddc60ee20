/** The views of the page, in the order of the navigation. */

import { texts } from "../texts.js";

/** @typedef {typeof import("../stream.js").live} Live */
/**
 * What a view is given. `rest` is what stands behind its name in the address, decoded; `signal` is aborted when it is left.
 * @typedef {{params: URLSearchParams, rest: string, live: Live, seconds: number, go: (hash: string) => void, signal: AbortSignal}} Context
 */
/** @typedef {{title: string, show: (place: HTMLElement, context: Context) => (() => void) | void}} View */
/** @typedef {keyof typeof texts.page.groups} GroupName */

/** @type {{name: string, group: GroupName, title: string, load: () => Promise<View>}[]} */
export const views = [
  { name: "overview", group: "traffic", title: texts.overview.title, load: () => import("./overview.js") },
  { name: "routes", group: "traffic", title: texts.routes.title, load: () => import("./routes.js") },
  { name: "requests", group: "traffic", title: texts.requests.title, load: () => import("./requests.js") },
  { name: "issues", group: "traffic", title: texts.issues.title, load: () => import("./issues.js") },
];
