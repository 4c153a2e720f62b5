/** Feedback on a round: good or bad, and a note. The server stores it as data for training. */

import * as api from "./api.js";
import { icon, make } from "./dom.js";
import { reportError } from "./errors.js";
import { state } from "./state.js";

const VERDICTS = ["good", "bad"];

/** Create the feedback elements of a round: {thumbs, form, status}. */
export function feedbackControls(round) {
  let verdict = null;
  const status = make("p", { class: "feedback-status", role: "status" });
  const label = "Note (optional)";
  const note = make("input", { type: "text", maxlength: 500, "aria-label": label, placeholder: label });
  const form = make("form", { class: "feedback", hidden: true }, note, make("button", { class: "small" }, "Send"));
  const choose = (chosen) => {
    verdict = chosen;
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(VERDICTS[k] === chosen)));
    form.hidden = false;
    status.textContent = "";
    note.focus();
  };
  const buttons = VERDICTS.map((each) => {
    const attributes = { type: "button", class: "quiet only-icon", "aria-pressed": "false" };
    const labels = { "aria-label": `This answer is ${each}`, title: `A ${each} answer` };
    return make("button", { ...attributes, ...labels, onclick: () => choose(each) }, icon(each));
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await api.sendFeedback(state.dialogue.id, { round: round.number, verdict, note: note.value.trim() });
      form.hidden = true;
      status.textContent = `Kept as ${verdict}. Thank you.`;
    } catch (error) {
      reportError(error, () => form.requestSubmit());
    }
  });
  return { thumbs: make("span", { class: "thumbs" }, ...buttons), form, status };
}
