/** State of the page. Every change goes through `update`, which calls all subscribers. */

export const state = {
  server: null, // the response of GET /v1/models
  modelChoice: { policy: null, segmenter: null, memory: null }, // for the next dialogue; null is the server's default
  screen: "ask", // or "everything", "words", "programs": see screens.js
  image: null, // {file, name, bitmap, width, height, question, followups, isExample}; sizes as the server counts pixels
  dialogue: null, // {id, policy, segmenter, memory}
  rounds: [], // as the server sends them
  instances: {}, // screen -> its instances: see instances.js
  picked: [], // ids of the instances that are picked on the open screen
  undoSteps: 0, // number of steps that undo can take back
  shownRound: null, // the number of the round on the canvas, or "all"
  selected: null, // the id of the selected region
  look: null, // the look, one of a round's `steps`, that the canvas shows in place of that round: see looks.js
  tool: "select", // or "add", "remove", "box"
  layers: { masks: true, boxes: true, points: true, opacity: 0.45 },
  pendingQuestion: null, // the question that is being answered
  partialAnswer: "", // the text generated for it so far
  correction: null, // prompts and candidate masks that are not saved yet: see correction.js
  busy: null, // what is going on, in words
  banner: null, // {text, action, run, isNotice}: one line, and maybe a button
};

const subscribers = [];

/** Call `render` after every change of the state. */
export function subscribe(render) {
  subscribers.push(render);
}

/** Merge `change` into the state, then call all subscribers. */
export function update(change) {
  Object.assign(state, change);
  for (const render of subscribers) render();
}

/** Whether the "policy" or the "segmenter" in use comes with SegZero, and knows its synthetic scenes alone. */
export function usesShipped(kind) {
  const { server, dialogue, modelChoice } = state;
  const models = { policy: server?.policies, segmenter: server?.segmenters }[kind] ?? [];
  const name = dialogue?.[kind] ?? modelChoice[kind];
  return Boolean(models.find((model) => (name ? model.name === name : model.default))?.shipped);
}

/** Return the region with this id, or undefined. */
export function findRegion(id) {
  return state.rounds.flatMap((round) => round.regions).find((region) => region.id === id);
}

/** Return the look that the canvas shows, or null. */
export function shownLook() {
  const { look, rounds, shownRound, screen, correction } = state;
  const isShown = screen === "ask" && !correction && rounds[shownRound - 1]?.steps?.includes(look);
  return isShown ? look : null;
}

/** Return the regions that the canvas shows: of the rounds that are shown, or a screen's instances. */
export function shownRegions() {
  const { rounds, shownRound, screen, instances } = state;
  if (screen !== "ask") return instances[screen] ?? [];
  if (shownLook()) return [];
  const shown = shownRound === "all" ? rounds : rounds.filter((round) => round.number === shownRound);
  return shown.flatMap((round) => round.regions);
}
