/** What the server did becomes what the page shows. */

import * as api from "./api.js";
import { fail } from "./problems.js";
import { state, update } from "./state.js";

/** A new round: it is shown, and `selected` is chosen. */
export async function addRound(round, selected, change) {
  const follows = round.number === state.rounds.length + 1;
  putRound(round, selected, change);
  if (!follows) await takeAll(); // another tab has gone on with the dialogue
}

/** The same for a round that has changed. */
export function putRound(round, selected, change = {}) {
  const rounds = [...state.rounds.slice(0, round.number - 1), round, ...state.rounds.slice(round.number)];
  const shown = state.shown === "all" ? "all" : round.number;
  update({ rounds, selected, shown, steps: state.steps + 1, ...change });
}

/** All rounds, as the server has them. */
export async function takeAll() {
  try {
    const { rounds, steps } = await api.look(state.dialogue.id);
    update({ rounds, steps, shown: stillShown(rounds, state.shown) });
  } catch (error) {
    fail(error, takeAll);
  }
}

/** Which of these rounds are on the picture: the last one, if those that were `shown` are not there. */
export function stillShown(rounds, shown) {
  const last = rounds.at(-1)?.number ?? null;
  return shown === "all" && last ? "all" : (rounds[shown - 1]?.number ?? last);
}
