/** A person's word on a round: good or bad, and a note. The server keeps it for those who gather data. */

import * as api from "./api.js";
import { icon, make } from "./dom.js";
import { fail } from "./problems.js";
import { state } from "./state.js";

/** Three elements: thumbs up and down, a note, and that it was kept. */
export function flagging(round) {
  let verdict = null;
  const said = make("p", { class: "flag-said", role: "status" });
  const about = "A note, if you like";
  const note = make("input", { type: "text", maxlength: 500, "aria-label": about, placeholder: about });
  const form = make("form", { class: "flag", hidden: true }, note, make("button", { class: "small" }, "Send"));
  const thumbs = ["good", "bad"].map((each) => {
    const attributes = { type: "button", class: "quiet only-icon", "aria-pressed": "false" };
    const said = { "aria-label": `This answer is ${each}`, title: `A ${each} answer` };
    return make("button", { ...attributes, ...said, onclick: () => judge(each) }, icon(each));
  });
  const judge = (chosen) => {
    verdict = chosen;
    thumbs.forEach((thumb, place) => thumb.setAttribute("aria-pressed", String(["good", "bad"][place] === chosen)));
    form.hidden = false;
    said.textContent = "";
    note.focus();
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await api.flag(state.dialogue.id, { round: round.number, verdict, note: note.value.trim() });
      form.hidden = true;
      said.textContent = `Kept as ${verdict}. Thank you.`;
    } catch (error) {
      fail(error, () => form.requestSubmit());
    }
  });
  return [make("span", { class: "thumbs" }, ...thumbs), form, said];
}
