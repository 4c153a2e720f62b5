/** Buttons above the rounds: show all, undo, clear and the downloads. */

import * as api from "./api.js";
import { discardCorrection, removeLastPoint } from "./correction.js";
import { announce, byId, make } from "./dom.js";
import { reportError } from "./errors.js";
import { state, update } from "./state.js";

/** Render which buttons can be used. */
export function renderToolbar() {
  const { busy, correction, rounds, shownRound, undoSteps } = state;
  byId("show-all").setAttribute("aria-pressed", String(shownRound === "all"));
  byId("show-all").hidden = rounds.length < 2;
  byId("undo").disabled = Boolean(busy) || !(undoSteps || correction);
  byId("clear").disabled = Boolean(busy) || !rounds.length;
  byId("downloads").classList.toggle("disabled", !rounds.length);
  byId("downloads").querySelector("summary").tabIndex = rounds.length ? 0 : -1;
}

/** Call undo or clear of the server, which returns all rounds that are left. */
async function changeRounds(call, busy) {
  if (!state.dialogue || state.busy) return;
  discardCorrection();
  update({ busy, banner: null });
  try {
    const { rounds, steps } = await call(state.dialogue.id);
    const shownRound = state.shownRound === "all" && rounds.length ? "all" : (rounds.at(-1)?.number ?? null);
    update({ rounds, shownRound, selected: null, undoSteps: steps });
    announce(rounds.length === 1 ? "1 round is left" : `${rounds.length} rounds are left`);
  } catch (error) {
    reportError(error, () => changeRounds(call, busy));
  } finally {
    update({ busy: null });
  }
}

async function download(format) {
  const round = format === "overlay" && state.shownRound !== "all" ? state.shownRound : null;
  try {
    const { blob, name } = await api.exportDialogue(state.dialogue.id, format, round);
    const url = URL.createObjectURL(blob);
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    reportError(error, () => download(format));
  }
}

byId("show-all").addEventListener("click", () => {
  update({ shownRound: state.shownRound === "all" ? state.rounds.at(-1).number : "all" });
});
byId("undo").addEventListener("click", () => {
  if (state.correction) removeLastPoint();
  else changeRounds(api.undo, "Undoing");
});
byId("clear").addEventListener("click", () => changeRounds(api.clear, "Clearing"));
for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => {
    byId("downloads").open = false;
    download(button.dataset.download);
  });
}
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !event.shiftKey && !isTyping) {
    event.preventDefault();
    byId("undo").click();
  }
});
