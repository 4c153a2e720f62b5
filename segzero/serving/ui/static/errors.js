/** Banner with one line that says what went wrong and what to do, and the dialog that asks for a token. */

import { byId } from "./dom.js";
import { state, update } from "./state.js";

let restartDialogue = null; // creates a new dialogue about the same image
let retryWithToken = null; // the call that was refused for want of a token

/** Register how to create a new dialogue about the same image once the server has dropped the old one. */
export function onDialogueExpired(restart) {
  restartDialogue = restart;
}

/** Show an error. `retry` is run by a button where repeating can help, or once a token was entered. */
export function reportError(error, retry) {
  if (error.code === "aborted") return;
  if (error.status === undefined) throw error; // a bug of this page, not an ApiError
  if (error.status === 401) askForToken(retry);
  else update({ banner: describeError(error, retry) });
}

/** Show a line and, with {action, run}, a button. `isNotice` marks a line that reports no error. */
export function showBanner(text, options = {}) {
  update({ banner: { text, ...options } });
}

/** Render the banner. */
export function renderBanner() {
  const { banner } = state;
  byId("banner").hidden = !banner;
  if (!banner) return;
  byId("banner").classList.toggle("notice", Boolean(banner.isNotice));
  // A screen reader repeats the text whenever it is set.
  if (byId("banner-text").textContent !== banner.text) byId("banner-text").textContent = banner.text;
  byId("banner-action").hidden = !banner.run;
  byId("banner-action").textContent = banner.action ?? "";
}

function describeError({ code, status, message }, retry) {
  const button = retry && { action: "Try again", run: retry };
  const restart = "Start it again, then go on here.";
  if (code === "unreachable") return { text: `The server does not answer. ${restart}`, ...button };
  if (code === "models_gone") return { text: `The server is shutting down. ${restart}`, ...button };
  if (code === "no_dialogue") {
    const text = "The server has forgotten this dialogue: it was idle too long, or the server was restarted.";
    return { text, action: "Start again with this picture", run: restartDialogue };
  }
  if (status === 413) {
    const { megabytes } = state.server.limits;
    const limit = `this server takes up to ${megabytes} MB`;
    return { text: `This picture is too large: ${limit}. Make it smaller and try again.` };
  }
  if ([408, 429, 500, 503, 504].includes(status)) return { text: asSentence(message), ...button };
  return { text: asSentence(message) };
}

/** Capitalize a message of the server and end it with a full stop. */
export function asSentence(message) {
  const line = message.trim();
  return line.slice(0, 1).toUpperCase() + line.slice(1) + (/[.!?]$/.test(line) ? "" : ".");
}

function askForToken(retry) {
  retryWithToken = retry ?? null;
  const dialog = byId("token-dialog");
  byId("token-error").hidden = !dialog.dataset.asked;
  dialog.dataset.asked = "yes";
  byId("token").value = "";
  if (!dialog.open) dialog.showModal();
}

/** Call `save` with each token that is entered, then repeat the refused call. */
export function onToken(save) {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    save(byId("token").value.trim());
    byId("token-dialog").close();
    retryWithToken?.();
  });
  byId("token-dialog").addEventListener("close", () => {
    if (byId("token").value) return;
    showBanner("This server needs a token.", { action: "Enter a token", run: () => askForToken(retryWithToken) });
  });
}

for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, () => {
    update({ busy: null });
    showBanner("Something went wrong in this page. Reload it to go on.");
  });
}
byId("banner-close").addEventListener("click", () => update({ banner: null }));
byId("banner-action").addEventListener("click", () => {
  const { run } = state.banner;
  update({ banner: null });
  run();
});
