/** Dialogue that this tab has open, kept in session storage so that a reloaded page can restore it from the server. */

import * as api from "./api.js";
import { announce } from "./dom.js";
import { reportError, showBanner } from "./errors.js";
import { state, update } from "./state.js";
import { roundToShow } from "./sync.js";
import { decodeImage } from "./upload.js";

const SESSION_KEY = "segzero.dialogue";
let saved = null; // the dialogue at the last change of the state

/** Save which dialogue is open, or remove the entry once it is closed. */
export function saveSession() {
  const { dialogue, image, shownRound } = state;
  if (dialogue) {
    const { name, followups, isExample } = image; // the server does not know these
    sessionStorage.setItem(SESSION_KEY, JSON.stringify({ id: dialogue.id, name, followups, isExample, shown: shownRound }));
  } else if (saved) removeSession();
  saved = dialogue;
}

const removeSession = () => sessionStorage.removeItem(SESSION_KEY);

/** Reopen the dialogue that was open before the page was reloaded, if the server still has it. */
export async function restoreSession() {
  const entry = sessionStorage.getItem(SESSION_KEY);
  if (!entry || state.dialogue || state.busy) return;
  update({ busy: "Opening the picture again" });
  try {
    const { id, name, followups, isExample, shown } = JSON.parse(entry);
    const [dialogue, file] = await Promise.all([api.getDialogue(id), api.getImage(id)]);
    const { size, policy, segmenter, memory, rounds, steps } = dialogue;
    const models = { policy, segmenter, memory };
    update({
      image: { file, name, bitmap: await decodeImage(file, size), ...size, followups, isExample },
      dialogue: { id, ...models },
      modelChoice: models, // the next picture gets the same models
      rounds,
      undoSteps: steps,
      shownRound: roundToShow(rounds, shown),
    });
    announce(`${name} is open again, with ${rounds.length === 1 ? "1 round" : `${rounds.length} rounds`}`);
  } catch (error) {
    if (error.code === "no_dialogue") {
      removeSession();
      showBanner("The server has forgotten the dialogue that was open here.", { isNotice: true });
    } else {
      if (error.status === undefined) removeSession(); // a bug of this page: the next try would fail as well
      reportError(error, restoreSession);
    }
  } finally {
    update({ busy: null });
  }
}
