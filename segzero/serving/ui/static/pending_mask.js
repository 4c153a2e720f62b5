/** Mask of the annotation page that is not kept yet: clicks and boxes give three to choose from, the brush edits one. */

import * as api from "./api.js";
import { drawThumbnail } from "./canvas.js";
import { announce, byId, make } from "./dom.js";
import { reportError } from "./errors.js";
import { decodeMask, encodeMask } from "./masks.js";
import { NEW_COLOR } from "./overlay.js";
import { state, update } from "./state.js";

const THUMBNAIL = 112; // canvas pixels on a side
const EMPTY = { points: [], labels: [], box: null, masks: null, choice: 0, message: null, how: "click" };

let abortController = null; // of the request for candidates that is running
let painted = null; // {width, height, bits}: the mask under the brush during a stroke
let isScheduled = false;
let rendered = null;

/** Add a click: label 1 is inside, 0 outside. */
export function addClick([x, y], label) {
  const { points, labels } = currentPending();
  const { width, height } = state.image;
  const pixel = [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)];
  changePrompt({ points: [...points, pixel], labels: [...labels, label] });
}

/** Set the box. */
export const setPendingBox = (box) => changePrompt({ box });

/** Remove the last click; discard everything if nothing else is there. */
export function removeLastClick() {
  const { points, labels, box } = state.correction;
  if (points.length + Boolean(box) < 2) discardPending();
  else changePrompt({ points: points.slice(0, -1), labels: labels.slice(0, -1) });
}

/** Discard the mask. */
export function discardPending() {
  abortController?.abort();
  painted = null;
  if (state.correction) update({ correction: null });
}

/** Choose one of the three masks. */
export function choosePending(choice) {
  const mask = state.correction?.masks?.[choice];
  if (!mask) return;
  update({ correction: { ...state.correction, choice } });
  announce(`Mask ${choice + 1} of ${state.correction.masks.length}`);
}

/** Return what would be kept: {id, rle, box, score, how}, or null. */
export function pendingMask() {
  const { correction } = state;
  const mask = correction?.masks?.[correction.choice];
  if (!mask?.box || correction.waiting) return null;
  return { id: correction.id, rle: mask.rle, box: mask.box, score: mask.score, how: correction.how };
}

/** Paint or erase pixels along a line of the image, with a round brush of that radius. */
export function paint(from, to, radius, value) {
  const { width, height } = state.image;
  const pending = currentPending();
  if (!painted) {
    const start = pending.masks?.[pending.choice]?.rle ?? pending.earlier;
    painted = start ? decodeMask(start) : { width, height, bits: new Uint8Array(width * height) };
  }
  const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(radius / 2, 0.5)));
  for (let step = 0; step <= steps; step++) {
    const share = step / steps;
    stamp(painted, from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share, radius, value);
  }
  if (!state.correction) update({ correction: { ...pending, how: "brush" } });
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(showPainted);
}

/** End a stroke of the brush. */
export function endStroke() {
  if (painted) showPainted();
  painted = null;
}

function showPainted() {
  isScheduled = false;
  if (!painted || !state.correction) return;
  abortController?.abort();
  const box = boxOf(painted);
  const masks = [{ rle: encodeMask(painted), box, score: null }];
  const message = box ? null : "Nothing is painted.";
  update({ correction: { ...state.correction, masks, choice: 0, waiting: false, message, how: "brush" } });
}

function stamp({ width, height, bits }, x, y, radius, value) {
  for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, Math.ceil(y + radius)); row++) {
    for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, Math.ceil(x + radius)); column++) {
      const distance = Math.hypot(column + 0.5 - x, row + 0.5 - y);
      if (distance <= Math.max(radius, 0.71)) bits[row * width + column] = value; // at least the pixel under the pointer
    }
  }
}

function boxOf({ width, height, bits }) {
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  bits.forEach((bit, place) => {
    if (!bit) return;
    const [x, y] = [place % width, Math.floor(place / width)];
    [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
  });
  return x1 < 0 ? null : [x0, y0, x1 + 1, y1 + 1];
}

/** The mask that is not kept yet, or a new one: of the picked instance, if it is one alone. */
function currentPending() {
  if (state.correction) return state.correction;
  const [id] = state.picked.length === 1 ? state.picked : [null];
  const earlier = state.instances.annotate?.find((each) => each.id === id)?.rle ?? null;
  return { id, earlier, ...EMPTY };
}

/** Change clicks or box, then load the masks of the new prompt. */
async function changePrompt(change) {
  const before = currentPending();
  const how = change.box ? "box" : before.how === "brush" ? "click" : before.how;
  const correction = { ...before, ...change, how, message: null, waiting: true };
  update({ correction });
  abortController?.abort();
  abortController = new AbortController();
  const { points, labels, box, earlier } = correction;
  try {
    const prompt = { points, labels, ...(box && { box }), ...(earlier && { mask: earlier }) };
    const { masks } = await api.annotationCandidates(state.entry.id, prompt, abortController.signal);
    if (state.correction !== correction) return;
    const filled = masks.filter((mask) => mask.box);
    const message = filled.length ? null : "No mask was found there. Click inside, draw a box, or use the brush.";
    update({ correction: { ...correction, masks: filled, choice: 0, waiting: false, message } });
    announce(`${filled.length} masks to choose from. Enter keeps the best.`);
  } catch (error) {
    if (error.code === "aborted" || state.correction !== correction) return;
    if (error.status === 422) update({ correction: { ...correction, waiting: false, message: error.message } });
    else reportError(error, () => changePrompt({}));
  }
}

/** Render the panel below the picture. */
export function renderPending() {
  const { correction, busy } = state;
  byId("pending").classList.toggle("empty", !correction);
  if (!correction) return;
  const { masks, waiting, choice, message } = correction;
  const told = masks?.length > 1 ? "Choose one (1, 2, 3); more clicks make it clearer." : "Enter keeps it.";
  byId("pending-message").textContent = message ?? (waiting ? "Drawing ..." : told);
  byId("keep").disabled = !pendingMask() || Boolean(busy);
  const list = byId("masks");
  list.classList.toggle("waiting", Boolean(waiting));
  if (rendered !== masks) {
    rendered = masks;
    list.replaceChildren(...(masks ?? []).filter((mask) => mask.box).map(maskButton));
  }
  [...list.children].forEach((button, place) => {
    button.setAttribute("aria-checked", String(place === choice));
    button.tabIndex = place === choice ? 0 : -1;
  });
}

function maskButton(mask, place) {
  const thumbnail = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
  drawThumbnail(thumbnail, [mask], NEW_COLOR);
  const score = mask.score === null ? "" : mask.score.toFixed(2);
  const label = `Mask ${place + 1}${score && `, predicted IoU ${score}`}`;
  const onclick = () => choosePending(place);
  const attributes = { role: "radio", type: "button", class: "mask", "aria-label": label, onclick };
  return make("button", attributes, thumbnail, score && make("span", { class: "score" }, score));
}
