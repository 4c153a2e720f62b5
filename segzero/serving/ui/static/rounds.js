/** List of rounds: a card per round, and one for the answer that is being generated. */

import { drawThumbnail } from "./canvas.js";
import { bringIntoView, byId, cssColor, icon, make } from "./dom.js";
import { feedbackControls } from "./feedback.js";
import { lookRow, markLook } from "./looks.js";
import { state, update } from "./state.js";

const THUMBNAIL = 128; // canvas pixels on a side
const cards = new Map(); // round number -> {round, element}
let actions = {}; // see setRoundActions

/** Set what the buttons of a card do: {select(regionId), refer(roundNumber)}. */
export function setRoundActions(callbacks) {
  actions = callbacks;
}

/** Describe the result of a round in a few words. */
export function roundSummary(round) {
  if (round.state === "unread") return "the answer could not be read";
  if (round.state === "nothing") return "nothing there";
  return round.regions.length === 1 ? "1 instance" : `${round.regions.length} instances`;
}

/** Render the list. A card is made anew only when its round has changed, so that a note being typed is not lost. */
export function renderRounds() {
  const { rounds, pendingQuestion } = state;
  for (const number of [...cards.keys()].filter((each) => each > rounds.length)) cards.delete(number);
  for (const round of rounds) {
    if (cards.get(round.number)?.round !== round) cards.set(round.number, { round, element: card(round) });
  }
  const elements = rounds.map((round) => cards.get(round.number).element);
  replaceCards(pendingQuestion ? [...elements, renderPendingCard()] : elements);
  for (const { round, element } of cards.values()) markShown(round, element);
  byId("no-rounds").hidden = Boolean(rounds.length || pendingQuestion);
}

/** Bring the list to these elements without detaching those that stay, and scroll to one that was added. */
function replaceCards(elements) {
  const list = byId("rounds");
  const before = list.children.length;
  elements.forEach((element, place) => {
    const present = list.children[place];
    if (present === element) return;
    if (present && !elements.includes(present)) present.replaceWith(element);
    else list.insertBefore(element, present ?? null);
  });
  while (list.children.length > elements.length) list.lastElementChild.remove();
  if (elements.length > before) bringIntoView(elements.at(-1));
}

function markShown(round, element) {
  const isShown = state.shownRound === round.number;
  element.classList.toggle("shown", isShown);
  element.querySelector(".card-head").setAttribute("aria-pressed", String(isShown));
  for (const chip of element.querySelectorAll("[data-id]")) {
    chip.setAttribute("aria-pressed", String(Number(chip.dataset.id) === state.selected));
  }
  markLook(round, element);
}

function card(round) {
  const thumbnail = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
  drawThumbnail(thumbnail, round.regions);
  const show = () => {
    const hasSelected = round.regions.some((region) => region.id === state.selected);
    update({ shownRound: round.number, selected: hasSelected ? state.selected : null, look: null });
  };
  const title = make(
    "span",
    { class: "card-title" },
    make("small", {}, `Round ${round.number}`),
    make("strong", { class: round.question ? "" : "by-hand" }, round.question || "Drawn by hand"),
  );
  const attributes = { type: "button", class: "card-head", onclick: show, title: "Show this round on the picture" };
  const head = make("button", attributes, thumbnail, title);
  const parts = [head, result(round), thinking(round), lookRow(round), footer(round)];
  return make("li", { class: `card ${round.state}` }, ...parts);
}

function result(round) {
  if (round.state === "found") return make("div", { class: "chips" }, ...round.regions.map(regionChip));
  if (round.state === "nothing") {
    return make("p", { class: "outcome" }, icon("none"), "Nothing there: nothing in the picture fits.");
  }
  const text = `The answer could not be read (${round.error}). Ask again in other words.`;
  return make("p", { class: "outcome" }, icon("warning"), text);
}

function regionChip({ id, color, score }) {
  const dot = make("i", { class: "dot" });
  dot.style.background = cssColor(color);
  const iou = score.toFixed(2);
  const label = `Instance ${id}, predicted IoU ${iou}`;
  const onclick = () => actions.select(id);
  const attributes = { type: "button", class: "chip", "data-id": id, "aria-label": label, onclick };
  return make("button", attributes, dot, `Instance ${id}`, make("small", { title: "Predicted IoU" }, iou));
}

function thinking(round) {
  const isUnread = round.state === "unread";
  const text = isUnread ? round.raw_text : round.think;
  if (!text) return null;
  const title = make("summary", {}, isUnread ? "What the policy wrote" : "Thinking");
  return make("details", { class: "thinking", open: !isUnread }, title, make("p", {}, text));
}

function footer(round) {
  const attributes = {
    type: "button",
    class: "quiet",
    title: `Puts [REF:${round.number}] into the question`,
    onclick: () => actions.refer(round.number),
  };
  const refer = round.state !== "unread" && make("button", attributes, icon("quote"), "Use as reference");
  const feedback = state.server.flags ? feedbackControls(round) : {};
  const row = make("div", { class: "row" }, refer, feedback.thumbs);
  return make("div", { class: "foot" }, row, feedback.form, feedback.status);
}

const pending = {
  question: make("strong"),
  text: make("p", { class: "stream" }),
  step: make("span", {}),
};
// One element for all updates, so that it does not flicker.
const pendingCard = make(
  "li",
  { class: "card pending", "aria-busy": "true" },
  make("div", { class: "card-title" }, make("small", {}, "Asking"), pending.question),
  make("p", { class: "progress" }, make("i", { class: "pulse" }), pending.step),
  pending.text,
);

function renderPendingCard() {
  const { think, isAnswering } = parsePartialAnswer(state.partialAnswer);
  pending.question.textContent = state.pendingQuestion;
  if (pending.text.textContent !== think) pending.text.textContent = think;
  pending.step.textContent = isAnswering ? "Drawing the masks" : think ? "Thinking" : "Looking at the picture";
  return pendingCard;
}

/** Return {think, isAnswering} of a text that may end anywhere: its thinking, and whether the answer has begun. */
export function parsePartialAnswer(text) {
  const body = text.replace(/^\s*<think>\s*/, "");
  const end = body.search(/<\/think>|<answer>/);
  const partialTag = body.search(/<\/?[a-z]*$/);
  const think = body.slice(0, end >= 0 ? end : partialTag >= 0 ? partialTag : undefined);
  return { think: think.trim(), isAnswering: end >= 0 };
}
