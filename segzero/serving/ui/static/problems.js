/** What went wrong, as one line that says what to do; a token is asked for where the server wants one. */

import { byId } from "./dom.js";
import { state, update } from "./state.js";

let reopen = null; // begins again with the same picture
let resume = null; // what waits for a token

/** How to begin again with the same picture, once a dialogue has expired. */
export function onExpired(run) {
  reopen = run;
}

/** Show it; `again` is what a button repeats, where repeating helps. */
export function fail(error, again) {
  if (error.code === "stopped") return;
  if (error.status === undefined) throw error; // a mistake of this page's
  if (error.status === 401) askToken(again);
  else update({ problem: told(error, again) });
}

/** Show a line, and maybe a button: {action, run}; `calm` where nothing is wrong. */
export function complain(text, button = {}) {
  update({ problem: { text, ...button } });
}

/** The banner. */
export function showProblem() {
  const { problem } = state;
  const banner = byId("problem");
  banner.hidden = !problem;
  if (!problem) return;
  banner.classList.toggle("calm", Boolean(problem.calm));
  if (byId("problem-text").textContent !== problem.text) byId("problem-text").textContent = problem.text;
  byId("problem-action").hidden = !problem.run;
  byId("problem-action").textContent = problem.action ?? "";
}

function told(error, again) {
  const retry = again && { action: "Try again", run: again };
  if (error.code === "gone") return { text: "The server does not answer. Start it again, then go on here.", ...retry };
  if (error.code === "models_gone") return { text: "The server is ending. Start it again, then go on here.", ...retry };
  if (error.code === "no_dialogue") {
    const text = "The server has forgotten this dialogue: it was idle too long, or the server was started again.";
    return { text, action: "Begin again with this picture", run: reopen };
  }
  if (error.status === 413) {
    const most = state.server.limits.megabytes;
    return { text: `This picture is too large: this server takes up to ${most} MB. Make it smaller and try again.` };
  }
  if ([408, 429, 500, 503, 504].includes(error.status)) return { text: sentence(error.message), ...retry };
  return { text: sentence(error.message) };
}

/** The server's lines begin small and have no full stop. */
export function sentence(text) {
  const line = text.trim();
  return line.slice(0, 1).toUpperCase() + line.slice(1) + (/[.!?]$/.test(line) ? "" : ".");
}

function askToken(again) {
  resume = again ?? null;
  const dialog = byId("token-dialog");
  byId("token-said").hidden = !dialog.dataset.asked;
  dialog.dataset.asked = "yes";
  byId("token").value = "";
  if (!dialog.open) dialog.showModal();
}

/** `keep` is called with a token that a person typed. */
export function onToken(keep) {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep(byId("token").value.trim());
    byId("token-dialog").close();
    resume?.();
  });
  byId("token-dialog").addEventListener("close", () => {
    if (byId("token").value) return;
    complain("This server needs a token.", { action: "Enter a token", run: () => askToken(resume) });
  });
}

for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, () => {
    update({ busy: null });
    complain("This page made a mistake. Reload it to go on.");
  });
}
byId("problem-close").addEventListener("click", () => update({ problem: null }));
byId("problem-action").addEventListener("click", () => {
  const { run } = state.problem;
  update({ problem: null });
  run();
});
