/** The history: a card for each round, and one for the answer that is being written. */

import { bringIntoView, byId, css, icon, make } from "./dom.js";
import { flagging } from "./flagging.js";
import { drawThumbnail } from "./picture.js";
import { state, update } from "./state.js";

const THUMBNAIL = 128; // dots of a square
const cards = new Map(); // round number -> {round, element}
let acts = {}; // what other modules do with a round: select(id), refer(number)

/** Tell what choosing an instance and using a round as a reference mean. */
export function onRounds(given) {
  acts = given;
}

/** In words: what came of a round. */
export function summary(round) {
  if (round.state === "unread") return "the answer could not be read";
  if (round.state === "nothing") return "nothing there";
  return round.regions.length === 1 ? "1 instance" : `${round.regions.length} instances`;
}

/** The list. A card is made anew only when its round has changed, so that nothing in it is lost. */
export function showRounds() {
  const list = byId("rounds");
  const { rounds } = state;
  for (const number of [...cards.keys()].filter((each) => each > rounds.length)) cards.delete(number);
  for (const round of rounds) {
    if (cards.get(round.number)?.round !== round) cards.set(round.number, { round, element: card(round) });
  }
  const wanted = [...rounds.map((round) => cards.get(round.number).element), ...(state.asked ? [pending()] : [])];
  const before = list.children.length;
  wanted.forEach((element, place) => {
    const there = list.children[place];
    if (there === element) return;
    if (there && !wanted.includes(there)) there.replaceWith(element);
    else list.insertBefore(element, there ?? null);
  });
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  if (wanted.length > before) bringIntoView(wanted.at(-1));
  for (const { round, element } of cards.values()) {
    element.classList.toggle("shown", state.shown === round.number);
    element.querySelector(".show").setAttribute("aria-pressed", String(state.shown === round.number));
    for (const chip of element.querySelectorAll("[data-id]")) {
      chip.setAttribute("aria-pressed", String(Number(chip.dataset.id) === state.selected));
    }
  }
  byId("no-rounds").hidden = Boolean(rounds.length || state.asked);
  byId("all").setAttribute("aria-pressed", String(state.shown === "all"));
  byId("all").hidden = rounds.length < 2;
}

function card(round) {
  const title = round.question || "Drawn by hand";
  const small = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
  drawThumbnail(small, round.regions);
  const show = () => {
    const keeps = round.regions.some((each) => each.id === state.selected);
    update({ shown: round.number, selected: keeps ? state.selected : null });
  };
  const head = make(
    "button",
    { type: "button", class: "show", onclick: show, title: "Show this round on the picture" },
    small,
    make(
      "span",
      { class: "asked" },
      make("small", {}, `Round ${round.number}`),
      make("strong", { class: round.question ? "" : "by-hand" }, title),
    ),
  );
  return make("li", { class: `card ${round.state}` }, head, outcome(round), thinking(round), foot(round));
}

function outcome(round) {
  if (round.state === "found") {
    const chips = round.regions.map((each) => {
      const dot = make("i", { class: "dot" });
      dot.style.background = css(each.color);
      const score = each.score.toFixed(2);
      const label = `Instance ${each.id}, predicted IoU ${score}`;
      const onclick = () => acts.select(each.id);
      const attributes = { type: "button", class: "chip", "data-id": each.id, "aria-label": label, onclick };
      return make("button", attributes, dot, `Instance ${each.id}`, make("small", { title: "Predicted IoU" }, score));
    });
    return make("div", { class: "chips" }, ...chips);
  }
  const none = "Nothing there: nothing in the picture fits.";
  if (round.state === "nothing") return make("p", { class: "outcome" }, icon("none"), none);
  const why = `The answer could not be read (${round.error}). Ask again in other words.`;
  return make("p", { class: "outcome" }, icon("warning"), why);
}

function thinking(round) {
  const unread = round.state === "unread";
  const text = unread ? round.raw_text : round.think;
  if (!text) return null;
  const title = make("summary", {}, unread ? "What the policy wrote" : "Thinking");
  return make("details", { class: "think", open: !unread }, title, make("p", {}, text));
}

function foot(round) {
  const attributes = {
    type: "button",
    class: "quiet",
    title: `Puts [REF:${round.number}] into the question`,
    onclick: () => acts.refer(round.number),
  };
  const use = round.state !== "unread" && make("button", attributes, icon("quote"), "Use as reference");
  const flags = state.server.flags ? flagging(round) : [null];
  return make("div", { class: "foot" }, make("div", { class: "row" }, use, flags[0]), ...flags.slice(1));
}

/** What is being written. One element, so that it does not flicker. */
const writing = {
  asked: make("strong"),
  text: make("p", { class: "stream" }),
  step: make("span", {}),
};
writing.card = make(
  "li",
  { class: "card pending", "aria-busy": "true" },
  make("div", { class: "asked" }, make("small", {}, "Asking"), writing.asked),
  make("p", { class: "working" }, make("i", { class: "pulse" }), writing.step),
  writing.text,
);

function pending() {
  const { think, answering } = readSoFar(state.written);
  writing.asked.textContent = state.asked;
  if (writing.text.textContent !== think) writing.text.textContent = think;
  writing.step.textContent = answering ? "Drawing the masks" : think ? "Thinking" : "Looking at the picture";
  return writing.card;
}

/** The thinking in a text that may end anywhere, and whether the answer has begun. */
export function readSoFar(text) {
  const body = text.replace(/^\s*<think>\s*/, "");
  const end = body.search(/<\/think>|<answer>/);
  const half = body.search(/<\/?[a-z]*$/); // a tag that is not whole yet
  const think = body.slice(0, end >= 0 ? end : half >= 0 ? half : undefined);
  return { think: think.trim(), answering: end >= 0 };
}
