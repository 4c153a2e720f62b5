/** The question box: Enter asks, the thinking streams in, a round comes of it. */

import * as api from "./api.js";
import { announce, bringIntoView, byId, make } from "./dom.js";
import { discard } from "./draft.js";
import { fail } from "./problems.js";
import { summary } from "./rounds.js";
import { state, update } from "./state.js";
import { addRound, takeAll } from "./taking.js";

const box = byId("question");
let asking = null; // what stops the question that runs

/** Put text where the cursor is, with spaces around it. */
export function insert(text) {
  const [start, end] = [box.selectionStart, box.selectionEnd];
  const [before, after] = [box.value.slice(0, start), box.value.slice(end)];
  const put = `${before && !/\s$/.test(before) ? " " : ""}${text}${/^\s/.test(after) ? "" : " "}`;
  box.setRangeText(put, start, end, "end");
  box.focus();
  grow();
}

/** Ask what stands in the box. */
async function ask() {
  const question = box.value.trim();
  if (!question || !state.dialogue || state.busy) return;
  discard();
  asking = new AbortController();
  update({ busy: "Asking", asked: question, written: "", problem: null });
  announce("The policy is thinking");
  try {
    const round = await api.ask(state.dialogue.id, question, (written) => update({ written }), asking.signal);
    const selected = round.regions.length === 1 ? round.regions[0].id : null;
    await addRound(round, selected);
    box.value = "";
    grow();
    announce(`Round ${round.number}: ${summary(round)}`);
  } catch (error) {
    if (error.code === "stopped") {
      await takeAll(); // whoever stops waiting may have been too late
      announce("Stopped");
    } else fail(error, ask);
  } finally {
    update({ busy: null, asked: null });
    asking = null;
    bringIntoView(byId("rounds").lastElementChild);
  }
}

/** The box, its buttons and what could be asked next. */
export function showAsking() {
  const { busy, rounds, picture, server } = state;
  if (server) box.maxLength = server.limits.question;
  box.placeholder = rounds.length ? "The next question" : "What should be found?";
  byId("ask").disabled = Boolean(busy) || !box.value.trim();
  byId("ask").hidden = Boolean(state.asked);
  byId("stop").hidden = !state.asked;
  const next = (picture?.followups ?? []).filter((each) => makesSense(each, rounds));
  const offered = rounds.length && !busy ? next.slice(0, 2) : [];
  const list = byId("followups");
  if (list.shown === offered.join("\n")) return;
  list.shown = offered.join("\n");
  const put = (text) => {
    box.value = text;
    grow();
    box.focus();
  };
  const chip = (text) => make("button", { type: "button", class: "chip", onclick: () => put(text) }, text);
  list.replaceChildren(...offered.map(chip));
}

/** Not asked yet, and what it refers to is there. */
function makesSense(question, rounds) {
  const referred = [...question.matchAll(/\[REF:(\d+)\]/g)].map((each) => rounds[each[1] - 1]);
  if (referred.some((round) => !round || round.state === "unread")) return false;
  return rounds.every((round) => round.question !== question);
}

function grow() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  showAsking();
}

box.addEventListener("input", grow);
box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
byId("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("stop").addEventListener("click", () => asking?.abort());
