/** A correction before anybody keeps it: points and a box become up to three masks to choose from. */

import * as api from "./api.js";
import { announce, byId, icon, make } from "./dom.js";
import { NEW } from "./marks.js";
import { drawThumbnail } from "./picture.js";
import { fail } from "./problems.js";
import { region, state, update } from "./state.js";
import { addRound, putRound } from "./taking.js";

const THUMBNAIL = 112; // dots of a square
let asking = null; // what stops the question that runs

/** Put a point on the chosen instance, or on a new one: label 1 is inside, 0 outside. */
export function addPoint([x, y], label) {
  const draft = current();
  const { width, height } = state.picture;
  const pixel = [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)];
  change({ points: [...draft.points, pixel], labels: [...draft.labels, label] });
}

/** Give the chosen instance, or a new one, a box. */
export function setBox(box) {
  change({ box });
}

/** Take the last point back, or the box; without both nothing is left. */
export function stepBack() {
  const { points, labels, box } = state.draft;
  if (points.length + Boolean(box) < 2) discard();
  else if (points.length) change({ points: points.slice(0, -1), labels: labels.slice(0, -1) });
}

/** Forget the correction. */
export function discard() {
  asking?.abort();
  if (state.draft) update({ draft: null });
}

/** The same three masks; another one of them. */
export function choose(choice) {
  const { draft } = state;
  if (!draft?.masks?.[choice]) return;
  update({ draft: { ...draft, choice } });
  announce(`Mask ${choice + 1} of ${draft.masks.length}, predicted IoU ${draft.masks[choice].score.toFixed(2)}`);
}

/** Take the chosen mask: the instance is corrected, or a new round holds it. */
export async function keep() {
  const { draft, dialogue } = state;
  if (!draft?.masks?.length || draft.waiting || state.busy) return;
  const name = draft.id ? "" : byId("tray-name").value.trim();
  const prompt = { ...asked(draft), choice: draft.choice, ...(name && { question: name }) };
  update({ busy: "Keeping it" });
  try {
    const round = await (draft.id ? api.refine : api.draw)(dialogue.id, prompt);
    const selected = draft.id ?? round.regions[0]?.id ?? null;
    await (draft.id ? putRound : addRound)(round, selected, { draft: null });
    announce(draft.id ? `Instance ${draft.id} is corrected` : `Drawn as instance ${selected}`);
  } catch (error) {
    fail(error);
  } finally {
    update({ busy: null });
  }
}

function current() {
  return state.draft ?? { id: state.selected, points: [], labels: [], box: null, masks: null, choice: 0, said: null };
}

const asked = ({ id, points, labels, box }) => ({ ...(id && { id }), points, labels, ...(box && { box }) });

async function change(more) {
  const draft = { ...current(), ...more, said: null, waiting: true };
  update({ draft });
  asking?.abort();
  asking = new AbortController();
  try {
    const { masks } = await api.candidates(state.dialogue.id, asked(draft), asking.signal);
    const filled = masks.filter((each) => each.box);
    if (state.draft === draft) {
      const said = filled.length ? null : "Nothing lies there. Add a point inside, or draw a box.";
      update({ draft: { ...draft, masks: filled, choice: 0, waiting: false, said } });
      if (filled.length) announce(`${filled.length} masks to choose from. Enter keeps the best.`);
    }
  } catch (error) {
    if (error.code === "stopped" || state.draft !== draft) return;
    if (error.status === 422) update({ draft: { ...draft, waiting: false, said: error.message } });
    else fail(error, () => change({}));
  }
}

/** The tray under the picture. */
export function showDraft() {
  const { draft } = state;
  const tray = byId("tray");
  if (tray.hidden) byId("tray-name").value = "";
  tray.hidden = !draft;
  if (!draft) return;
  byId("tray-title").textContent = draft.id ? `Correct instance ${draft.id}` : "A new instance";
  byId("tray-said").textContent = draft.said ?? (draft.waiting && !draft.masks ? "Drawing ..." : advice(draft));
  byId("tray-name").hidden = Boolean(draft.id);
  byId("keep").disabled = !draft.masks?.length || draft.waiting || Boolean(state.busy);
  byId("keep").replaceChildren(icon("check"), draft.id ? "Keep" : "Add");
  const list = byId("masks");
  list.classList.toggle("waiting", Boolean(draft.waiting));
  if (list.shown !== draft.masks) {
    list.shown = draft.masks;
    list.replaceChildren(...(draft.masks ?? []).map((mask, place) => option(mask, place, draft.id)));
  }
  [...list.children].forEach((each, place) => each.setAttribute("aria-checked", String(place === draft.choice)));
  [...list.children].forEach((each, place) => (each.tabIndex = place === draft.choice ? 0 : -1));
}

function advice({ masks }) {
  return masks?.length > 1 ? "Choose one; more points make it clearer." : "More points make it clearer.";
}

function option(mask, place, id) {
  const small = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
  drawThumbnail(small, [mask], region(id)?.color ?? NEW);
  const score = mask.score.toFixed(2);
  const label = `Mask ${place + 1}, predicted IoU ${score}`;
  const onclick = () => choose(place);
  const attributes = { role: "radio", type: "button", class: "mask", "aria-label": label, onclick };
  return make("button", attributes, small, make("span", { class: "score" }, score));
}

byId("masks").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const count = state.draft?.masks?.length;
  if (!step || !count) return;
  event.preventDefault();
  choose((state.draft.choice + step + count) % count);
  byId("masks").children[state.draft.choice].focus();
});
byId("tray-name").addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && keep());
byId("keep").addEventListener("click", keep);
byId("discard").addEventListener("click", discard);
