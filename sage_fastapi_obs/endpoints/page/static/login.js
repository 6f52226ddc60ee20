/** Asks for the token. It goes to the service once, which answers with a cookie that no script reads. */

import { post } from "./api.js";
import { h, replace } from "./dom.js";
import { texts } from "./texts.js";

const words = texts.login;

// Show the login, once.
/** @param {() => void} entered */
export function showLogin(entered) {
  if (document.querySelector("dialog.login")) return;
  const token = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const said = h("p", { class: "problem", role: "alert" });
  const onsubmit = (/** @type {Event} */ event) => (event.preventDefault(), enter());
  const head = [h("h2", { id: "login-title" }, words.title), h("p", null, words.explain)];
  const field = [h("label", { for: "token" }, words.label), token, said];
  const form = h("form", { onsubmit }, head, field, h("button", { class: "primary" }, words.enter));
  const dialog = h("dialog", { class: "login", "aria-labelledby": "login-title" }, form);
  const enter = async () => {
    const answer = await post("login", { token: token.value });
    token.value = "";
    if (answer.state === "unavailable") return replace(said, `${words.refused} ${answer.reason}`);
    dialog.remove();
    entered();
  };
  document.body.append(dialog);
  dialog.showModal();
}
