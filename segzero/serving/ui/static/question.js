/** Question box: Enter sends the question, the answer streams in, and a new round is added. */

import * as api from "./api.js";
import { discardCorrection } from "./correction.js";
import { announce, bringIntoView, byId, make } from "./dom.js";
import { reportError } from "./errors.js";
import { roundSummary } from "./rounds.js";
import { state, update } from "./state.js";
import { addRound, reloadRounds } from "./sync.js";

const MAX_FOLLOWUPS = 2;

const box = byId("question");
let abortController = null; // of the request that is running
let renderedFollowups = "";

/** Insert text at the cursor, with spaces around it. */
export function insertText(text) {
  const [start, end] = [box.selectionStart, box.selectionEnd];
  const [before, after] = [box.value.slice(0, start), box.value.slice(end)];
  const spaced = `${before && !/\s$/.test(before) ? " " : ""}${text}${/^\s/.test(after) ? "" : " "}`;
  box.setRangeText(spaced, start, end, "end");
  box.focus();
  fitBox();
}

/** Replace the question in the box. */
export function setQuestion(text) {
  box.value = text;
  fitBox();
}

async function ask() {
  const question = box.value.trim();
  if (!question || !state.dialogue || state.busy) return;
  discardCorrection();
  abortController = new AbortController();
  update({ busy: "Asking", pendingQuestion: question, partialAnswer: "", banner: null });
  announce("The policy is thinking");
  try {
    const onText = (partialAnswer) => update({ partialAnswer });
    const round = await api.ask(state.dialogue.id, question, onText, abortController.signal);
    const selected = round.regions.length === 1 ? round.regions[0].id : null;
    await addRound(round, selected);
    setQuestion("");
    announce(`Round ${round.number}: ${roundSummary(round)}`);
  } catch (error) {
    if (error.code === "aborted") {
      await reloadRounds(); // the server may have finished the round before the request was aborted
      announce("Stopped");
    } else reportError(error, ask);
  } finally {
    update({ busy: null, pendingQuestion: null });
    abortController = null;
    bringIntoView(byId("rounds").lastElementChild);
  }
}

/** Render the box, its buttons and the follow-up questions. */
export function renderQuestion() {
  const { busy, pendingQuestion, rounds, server } = state;
  if (server) box.maxLength = server.limits.question;
  box.placeholder = rounds.length ? "The next question" : "What should be found?";
  byId("ask").disabled = Boolean(busy) || !box.value.trim();
  byId("ask").hidden = Boolean(pendingQuestion);
  byId("stop").hidden = !pendingQuestion;
  renderFollowups();
}

function renderFollowups() {
  const { busy, rounds, image } = state;
  const possible = (image?.followups ?? []).filter((question) => canAsk(question, rounds));
  const followups = rounds.length && !busy ? possible.slice(0, MAX_FOLLOWUPS) : [];
  if (renderedFollowups === followups.join("\n")) return;
  renderedFollowups = followups.join("\n");
  const choose = (text) => {
    setQuestion(text);
    box.focus();
  };
  const chip = (text) => make("button", { type: "button", class: "chip", onclick: () => choose(text) }, text);
  byId("followups").replaceChildren(...followups.map(chip));
}

/** Whether a follow-up question is new and every round it refers to exists and could be read. */
function canAsk(question, rounds) {
  const references = [...question.matchAll(/\[REF:(\d+)\]/g)].map((match) => rounds[match[1] - 1]);
  if (references.some((round) => !round || round.state === "unread")) return false;
  return rounds.every((round) => round.question !== question);
}

function fitBox() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  renderQuestion();
}

box.addEventListener("input", fitBox);
box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
byId("question-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("stop").addEventListener("click", () => abortController?.abort());
