/** Correction that is not saved yet: points and a box give up to three candidate masks to choose from. */

import * as api from "./api.js";
import { drawThumbnail } from "./canvas.js";
import { announce, byId, icon, make } from "./dom.js";
import { reportError } from "./errors.js";
import { NEW_COLOR } from "./overlay.js";
import { findRegion, state, update } from "./state.js";
import { addRound, replaceRound } from "./sync.js";

const THUMBNAIL = 112; // canvas pixels on a side
const EMPTY = { points: [], labels: [], box: null, masks: null, choice: 0, message: null };

let abortController = null; // of the request for candidates that is running
let renderedMasks = null;

/** Add a point to the selected region or to a new one: label 1 is inside, 0 outside. */
export function addPoint([x, y], label) {
  const { points, labels } = currentCorrection();
  const { width, height } = state.image;
  const pixel = [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)];
  changePrompt({ points: [...points, pixel], labels: [...labels, label] });
}

/** Set the box of the selected region or of a new one. */
export function setBox(box) {
  changePrompt({ box });
}

/** Remove the last point. If it is all there is, or only a box is left, discard the correction. */
export function removeLastPoint() {
  const { points, labels, box } = state.correction;
  if (points.length + Boolean(box) < 2) discardCorrection();
  else changePrompt({ points: points.slice(0, -1), labels: labels.slice(0, -1) });
}

/** Discard the correction. */
export function discardCorrection() {
  abortController?.abort();
  if (state.correction) update({ correction: null });
}

/** Choose one of the candidate masks. */
export function chooseMask(choice) {
  const { correction } = state;
  if (!correction?.masks?.[choice]) return;
  const { masks } = correction;
  update({ correction: { ...correction, choice } });
  announce(`Mask ${choice + 1} of ${masks.length}, predicted IoU ${masks[choice].score.toFixed(2)}`);
}

/** Save the chosen mask: correct the region, or add a round with a new one. */
export async function keepCorrection() {
  const { correction, dialogue } = state;
  if (!correction?.masks?.length || correction.waiting || state.busy) return;
  const { id, choice } = correction;
  const name = id ? "" : byId("correction-name").value.trim();
  const prompt = { ...promptOf(correction), choice, ...(name && { question: name }) };
  update({ busy: "Saving" });
  try {
    const round = await (id ? api.refine : api.draw)(dialogue.id, prompt);
    const selected = id ?? round.regions[0]?.id ?? null;
    await (id ? replaceRound : addRound)(round, selected, { correction: null });
    announce(id ? `Instance ${id} is corrected` : `Drawn as instance ${selected}`);
  } catch (error) {
    reportError(error);
  } finally {
    update({ busy: null });
  }
}

function currentCorrection() {
  return state.correction ?? { id: state.selected, ...EMPTY };
}

/** Return the part of a correction that the server's routes take. */
const promptOf = ({ id, points, labels, box }) => ({ ...(id && { id }), points, labels, ...(box && { box }) });

/** Change points or box, then load the candidate masks of the new prompt. */
async function changePrompt(change) {
  const correction = { ...currentCorrection(), ...change, message: null, waiting: true };
  update({ correction });
  abortController?.abort();
  abortController = new AbortController();
  try {
    const { masks } = await api.candidates(state.dialogue.id, promptOf(correction), abortController.signal);
    const filled = masks.filter((mask) => mask.box);
    if (state.correction === correction) {
      const message = filled.length ? null : "No mask was found there. Add a point inside, or draw a box.";
      update({ correction: { ...correction, masks: filled, choice: 0, waiting: false, message } });
      if (filled.length) announce(`${filled.length} masks to choose from. Enter keeps the best.`);
    }
  } catch (error) {
    if (error.code === "aborted" || state.correction !== correction) return;
    if (error.status === 422) update({ correction: { ...correction, waiting: false, message: error.message } });
    else reportError(error, () => changePrompt({}));
  }
}

/** Render the panel below the canvas. */
export function renderCorrection() {
  const { correction, busy } = state;
  const panel = byId("correction");
  if (panel.hidden) byId("correction-name").value = "";
  panel.hidden = !correction;
  if (!correction) return;
  const { id, masks, waiting } = correction;
  byId("correction-title").textContent = id ? `Correct instance ${id}` : "A new instance";
  byId("correction-message").textContent = statusText(correction);
  byId("correction-name").hidden = Boolean(id);
  byId("keep").disabled = !masks?.length || waiting || Boolean(busy);
  byId("keep").replaceChildren(icon("check"), id ? "Keep" : "Add");
  renderMasks(correction);
}

function statusText({ message, masks, waiting }) {
  if (message) return message;
  if (waiting && !masks) return "Drawing ...";
  return masks?.length > 1 ? "Choose one; more points make it clearer." : "More points make it clearer.";
}

function renderMasks({ id, masks, waiting, choice }) {
  const list = byId("masks");
  list.classList.toggle("waiting", Boolean(waiting));
  if (renderedMasks !== masks) {
    renderedMasks = masks;
    list.replaceChildren(...(masks ?? []).map((mask, place) => maskButton(mask, place, id)));
  }
  [...list.children].forEach((button, place) => {
    button.setAttribute("aria-checked", String(place === choice));
    button.tabIndex = place === choice ? 0 : -1;
  });
}

function maskButton(mask, place, id) {
  const thumbnail = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
  drawThumbnail(thumbnail, [mask], findRegion(id)?.color ?? NEW_COLOR);
  const score = mask.score.toFixed(2);
  const label = `Mask ${place + 1}, predicted IoU ${score}`;
  const onclick = () => chooseMask(place);
  const attributes = { role: "radio", type: "button", class: "mask", "aria-label": label, onclick };
  return make("button", attributes, thumbnail, make("span", { class: "score" }, score));
}

byId("masks").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const count = state.correction?.masks?.length;
  if (!step || !count) return;
  event.preventDefault();
  chooseMask((state.correction.choice + step + count) % count);
  byId("masks").children[state.correction.choice].focus();
});
byId("correction-name").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.isComposing) keepCorrection();
});
byId("keep").addEventListener("click", keepCorrection);
byId("discard").addEventListener("click", discardCorrection);
