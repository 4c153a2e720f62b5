/** Looks of the policy at its mask, where the server refines masks: a row on the card of their round. The look that is
 * chosen is shown on the picture: the mask as it was before that look, and the points that the next one was drawn from. */

import { discardCorrection } from "./correction.js";
import { icon, make } from "./dom.js";
import { shownLook, update } from "./state.js";

// By the action of a look: its icon, and what the policy said.
const ACTIONS = {
  keep: ["check", "Kept"],
  correct: ["add", "Corrected"],
  nothing: ["none", "Nothing there"],
  unreadable: ["warning", "Could not be read"],
};
const ARROWS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Make the row of a round's looks, with the result at its end; null where the policy did not look. */
export function lookRow({ number, steps: looks = [] }) {
  if (!looks.length) return null;
  const show = (place) => {
    discardCorrection();
    update({ shownRound: number, selected: null, look: looks[place] ?? null });
  };
  const choices = looks.map((look, place) => {
    const [name, said] = ACTIONS[look.action];
    return choice(`Look ${place + 1} of ${looks.length}: ${description(look)}`, () => show(place), icon(name), said);
  });
  choices.push(choice(`Result after ${counted(looks.length, "look")}`, () => show(looks.length), "Result"));
  const onkeydown = (event) => {
    const step = ARROWS[event.key];
    if (!step && event.key !== "Escape") return;
    event.preventDefault();
    const place = step ? (choices.indexOf(event.target) + step + choices.length) % choices.length : looks.length;
    show(place);
    choices[place].focus();
  };
  const label = `Looks at the mask of round ${number}`;
  const row = make("div", { class: "chips", role: "radiogroup", "aria-label": label, onkeydown }, ...choices);
  return make("div", { class: "looks" }, make("small", {}, "Looks at the mask"), row, make("p"));
}

/** Mark which of a round's looks is shown, and tell what the policy said then. */
export function markLook({ steps: looks }, card) {
  const row = card.querySelector(".looks");
  if (!row) return;
  const place = looks.indexOf(shownLook());
  const choices = [...row.querySelectorAll("[role=radio]")];
  choices.forEach((button, k) => {
    const isShown = k === (place < 0 ? looks.length : place);
    button.setAttribute("aria-checked", String(isShown));
    button.tabIndex = isShown ? 0 : -1;
  });
  const look = looks[place];
  const said = look ? `Look ${place + 1}: ${description(look)}.\n${look.think}`.trim() : "";
  if (row.lastElementChild.textContent !== said) row.lastElementChild.textContent = said; // else a selection is kept
}

function choice(label, onclick, ...content) {
  return make("button", { role: "radio", type: "button", class: "chip", "aria-label": label, onclick }, ...content);
}

/** Describe what the policy said at a look: its action, with its points or the code of its error. */
function description({ action, labels, error }) {
  const [inside, outside] = [1, 0].map((label) => labels.filter((each) => each === label).length);
  const points = [inside && `${counted(inside, "point")} inside`, outside && `${counted(outside, "point")} outside`];
  const facts = [error, ...points].filter(Boolean).join(", ");
  return ACTIONS[action][1] + (facts && ` (${facts})`);
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
