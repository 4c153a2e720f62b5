/** What the page knows. Whoever shows a part of it is called after each change. */

export const state = {
  server: null, // what GET /v1/models told
  wanted: { policy: null, segmenter: null, memory: null }, // for the next dialogue
  picture: null, // {file, name, image, width, height, followups}; pixels as the server counts them
  dialogue: null, // {id, policy, segmenter, memory}
  rounds: [],
  steps: 0, // that undo can take back
  shown: null, // the number of the round on the picture, or "all"
  selected: null, // the id of an instance
  tool: "select", // or "add", "remove", "box"
  layers: { masks: true, boxes: true, points: true, opacity: 0.45 },
  asked: null, // the question that is being answered
  written: "", // of its answer, so far
  draft: null, // a correction that nobody has kept yet: see draft.js
  busy: null, // what is going on, in words
  problem: null, // {text, action, run, calm}: one line, and maybe a button
};

const watchers = [];

/** Call `show` after every change. */
export function watch(show) {
  watchers.push(show);
}

/** Change some of the state, then show it. */
export function update(change) {
  Object.assign(state, change);
  for (const show of watchers) show();
}

/** All instances of all rounds. */
export function regions() {
  return state.rounds.flatMap((round) => round.regions);
}

/** The instance of that number, or undefined. */
export function region(id) {
  return regions().find((each) => each.id === id);
}

/** The instances on the picture. */
export function shownRegions() {
  const rounds = state.shown === "all" ? state.rounds : state.rounds.filter((round) => round.number === state.shown);
  return rounds.flatMap((round) => round.regions);
}
