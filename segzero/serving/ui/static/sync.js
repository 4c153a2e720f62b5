/** Rounds of the server, copied into the page's state. */

import * as api from "./api.js";
import { reportError } from "./errors.js";
import { state, update } from "./state.js";

/** Add a new round, show it and select the region with the id `selected`. `change` is merged into the state with it. */
export async function addRound(round, selected, change) {
  const isNext = round.number === state.rounds.length + 1;
  replaceRound(round, selected, change);
  if (!isNext) await reloadRounds(); // another tab has gone on with the dialogue
}

/** Replace the round of the same number, with the same parameters as `addRound`. */
export function replaceRound(round, selected, change = {}) {
  const rounds = [...state.rounds.slice(0, round.number - 1), round, ...state.rounds.slice(round.number)];
  const shownRound = state.shownRound === "all" ? "all" : round.number;
  update({ rounds, selected, shownRound, undoSteps: state.undoSteps + 1, ...change });
}

/** Load all rounds of the dialogue again. */
export async function reloadRounds() {
  try {
    const { rounds, steps } = await api.getDialogue(state.dialogue.id);
    update({ rounds, undoSteps: steps, shownRound: roundToShow(rounds, state.shownRound) });
  } catch (error) {
    reportError(error, reloadRounds);
  }
}

/** Return the round to show among `rounds`: `shown` (a number or "all") where it exists, else the last one. */
export function roundToShow(rounds, shown) {
  const last = rounds.at(-1)?.number ?? null;
  return shown === "all" && last ? "all" : (rounds[shown - 1]?.number ?? last);
}
