/** Puts the page together. */

import * as api from "./api.js";
import { insert, showAsking } from "./asking.js";
import { announce, byId } from "./dom.js";
import { discard, showDraft, stepBack } from "./draft.js";
import "./downloads.js";
import { showModels } from "./models.js";
import { leave, loadExamples } from "./opening.js";
import { showPicture } from "./picture.js";
import { fail, onToken, showProblem } from "./problems.js";
import { recall, remember } from "./remembering.js";
import { onRounds, showRounds } from "./rounds.js";
import { state, update, watch } from "./state.js";
import { select, showTools } from "./tools.js";

async function start() {
  try {
    update({ server: await api.models() });
    await Promise.all([recall(), loadExamples()]);
  } catch (error) {
    fail(error, start);
  }
}

/** Undo and clear: the server tells all rounds as they are then. */
async function step(act, said) {
  if (!state.dialogue || state.busy) return;
  discard();
  update({ busy: said, problem: null });
  try {
    const { rounds, steps } = await act(state.dialogue.id);
    const shown = state.shown === "all" && rounds.length ? "all" : (rounds.at(-1)?.number ?? null);
    update({ rounds, shown, selected: null, steps });
    announce(rounds.length === 1 ? "1 round is left" : `${rounds.length} rounds are left`);
  } catch (error) {
    fail(error, () => step(act, said));
  } finally {
    update({ busy: null });
  }
}

function showPage() {
  const { picture, busy, rounds, steps } = state;
  byId("opening").hidden = Boolean(picture);
  byId("desk").hidden = !picture;
  byId("new").hidden = !picture;
  document.body.classList.toggle("busy", Boolean(busy));
  byId("busy").hidden = !busy || Boolean(state.asked) || Boolean(picture);
  byId("busy-text").textContent = busy ?? "";
  byId("new").disabled = Boolean(busy);
  byId("choose").disabled = Boolean(busy) || !state.server;
  byId("undo").disabled = Boolean(busy) || !(steps || state.draft);
  byId("clear").disabled = Boolean(busy) || !rounds.length;
  byId("downloads").classList.toggle("disabled", !rounds.length);
  byId("downloads").querySelector("summary").tabIndex = rounds.length ? 0 : -1;
  const told = picture ? `${picture.name}, ${picture.width} by ${picture.height} pixels` : "";
  byId("canvas").setAttribute("aria-label", told);
}

watch(showPage);
watch(showModels);
watch(showProblem);
watch(showTools);
watch(showDraft);
watch(showRounds);
watch(showAsking);
watch(showPicture);
watch(remember);
onRounds({ select: (id) => select(id === state.selected ? null : id), refer: (number) => insert(`[REF:${number}]`) });
onToken(api.keepToken);

byId("new").addEventListener("click", () => {
  leave();
  byId("choose").focus();
});
byId("undo").addEventListener("click", () => (state.draft ? stepBack() : step(api.undo, "Taking it back")));
byId("clear").addEventListener("click", () => step(api.clear, "Clearing"));
byId("all").addEventListener("click", () => {
  update({ shown: state.shown === "all" ? state.rounds.at(-1).number : "all" });
});
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !event.shiftKey && !typing) {
    event.preventDefault();
    byId("undo").click();
  }
});
addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

update({});
start();
