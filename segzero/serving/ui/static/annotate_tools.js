/** Tools of the annotation page: pick, inside, outside, box, brush, erase; by pointer, touch and keyboard. */

import {
  displayScale,
  imagePoint,
  isZoomed,
  pan,
  regionAt,
  reveal,
  setCrosshair,
  setRubberBand,
  zoomBy,
} from "./canvas.js";
import { announce, byId } from "./dom.js";
import { togglePick } from "./instances.js";
import { addClick, choosePending, discardPending, endStroke, paint, removeLastClick, setPendingBox } from "./pending_mask.js";
import { state, update } from "./state.js";

const TOOL_KEYS = { v: "select", p: "add", n: "remove", b: "box", r: "brush", e: "erase" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HINTS = {
  select: "Click an instance to pick it.",
  add: "Click a thing, or what belongs to the picked instance.",
  remove: "Click what does not belong to it.",
  box: "Drag a box around a thing.",
  brush: "Paint the pixels of a thing, or more of the picked instance.",
  erase: "Erase pixels of the mask, or of the picked instance.",
};
const ARROW_STEP = 8; // CSS pixels
const FAST_ARROW_STEP = 40; // CSS pixels, with Shift
const MIN_DRAG = 4; // CSS pixels: a smaller box or a shorter drag was not meant
const ZOOM_STEP = 1.5;

const canvas = byId("canvas");
const size = byId("brush-size");
let corner = null; // the first corner of the box that is being drawn
let cursor = null; // the position of the keyboard's crosshair
let stroke = null; // the last point of the brush's stroke
let drag = null; // {from, hasMoved}: the drag that moves the visible part of the image

const isBrush = () => state.tool === "brush" || state.tool === "erase";
const isReady = () => state.image && state.entry && !state.busy;

/** Switch to a tool. */
export function setAnnotateTool(tool) {
  resetAnnotateTools();
  update({ tool });
}

/** End what is unfinished: a box, a stroke, a drag, the crosshair. */
export function resetAnnotateTools() {
  if (stroke) endStroke();
  corner = cursor = stroke = drag = null;
  setRubberBand(null);
  setCrosshair(null);
}

function brushTo(point) {
  paint(stroke ?? point, point, size.valueAsNumber, state.tool === "brush" ? 1 : 0);
  stroke = point;
}

function clickAt(point) {
  if (state.tool === "add") addClick(point, 1);
  else if (state.tool === "remove") {
    if (state.correction || state.picked.length === 1) addClick(point, 0);
    else announce("Pick an instance first, or click inside one");
  } else if (state.tool === "select") {
    const region = regionAt(point);
    if (region) togglePick(region.id);
    else update({ picked: [] });
  }
}

function boxBetween([ax, ay], [bx, by]) {
  const [low, high] = [Math.min, Math.max].map((pick) => [pick(ax, bx), pick(ay, by)]);
  return [...low.map(Math.floor), ...high.map(Math.ceil)];
}

function finishBox(point) {
  const box = boxBetween(corner, point);
  corner = null;
  setRubberBand(null);
  if (Math.min(box[2] - box[0], box[3] - box[1]) * displayScale() >= MIN_DRAG) setPendingBox(box);
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary || !isReady()) return;
  setCrosshair((cursor = null));
  canvas.setPointerCapture(event.pointerId);
  if (state.tool === "box") corner = imagePoint(event);
  else if (isBrush()) brushTo(imagePoint(event));
  else if (state.tool === "select" && isZoomed()) drag = { from: imagePoint(event), hasMoved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  if (corner) setRubberBand(boxBetween(corner, imagePoint(event)));
  else if (stroke) brushTo(imagePoint(event));
  else if (drag) {
    const point = imagePoint(event);
    const [dx, dy] = [drag.from[0] - point[0], drag.from[1] - point[1]];
    drag.hasMoved ||= Math.hypot(dx, dy) * displayScale() >= MIN_DRAG;
    if (drag.hasMoved) pan(dx, dy);
  }
});
canvas.addEventListener("pointerup", (event) => {
  if (event.button !== 0 || !event.isPrimary || !isReady()) return;
  const wasDragged = drag?.hasMoved;
  drag = null;
  if (corner) finishBox(imagePoint(event));
  else if (stroke) {
    stroke = null;
    endStroke();
  } else if (!wasDragged) clickAt(imagePoint(event));
});
canvas.addEventListener("pointercancel", resetAnnotateTools); // the finger scrolled the page
canvas.addEventListener("blur", () => cursor && resetAnnotateTools());
canvas.addEventListener(
  "wheel",
  (event) => {
    const page = document.scrollingElement;
    if (!event.ctrlKey && page.scrollHeight > page.clientHeight) return; // the page scrolls
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), imagePoint(event));
  },
  { passive: false },
);
byId("zoom-in").addEventListener("click", () => zoomBy(ZOOM_STEP));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / ZOOM_STEP));
byId("zoom-level").addEventListener("click", () => zoomBy(0));
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => setAnnotateTool(button.dataset.tool));
}

/** Handle a key that is not typed into a field; return whether it meant something. */
export function useKey(event) {
  const { key } = event;
  if (TOOL_KEYS[key]) {
    setAnnotateTool(TOOL_KEYS[key]);
    return true;
  }
  if (!isReady()) return false;
  if (ARROWS[key] && document.activeElement === canvas) {
    moveCursor(ARROWS[key], event.shiftKey ? FAST_ARROW_STEP : ARROW_STEP);
  } else if (key === " " && document.activeElement === canvas) useToolAtCursor();
  else if (key === "[" || key === "]") size.valueAsNumber += key === "]" ? 2 : -2;
  else if (key === "+" || key === "=") zoomBy(ZOOM_STEP, cursor ?? undefined);
  else if (key === "-") zoomBy(1 / ZOOM_STEP, cursor ?? undefined);
  else if (key === "0") zoomBy(0);
  else if (key === "Backspace" && state.correction) removeLastClick();
  else if ("123".includes(key)) choosePending(Number(key) - 1);
  else if (key === "Escape") cancel();
  else return false;
  return true;
}

/** Move the crosshair by `distance` CSS pixels. The first call only shows it, in the middle of the image. */
function moveCursor([dx, dy], distance) {
  const { width, height } = state.image;
  const [x, y] = cursor ?? [width / 2, height / 2];
  const step = cursor ? distance / displayScale() : 0;
  cursor = [Math.min(Math.max(x + dx * step, 0), width - 1), Math.min(Math.max(y + dy * step, 0), height - 1)];
  setCrosshair(cursor);
  reveal(cursor);
  if (corner) setRubberBand(boxBetween(corner, cursor));
  announce(`${Math.floor(cursor[0])}, ${Math.floor(cursor[1])}`);
}

function useToolAtCursor() {
  if (!cursor) moveCursor([0, 0], 0);
  else if (state.tool === "box") {
    if (corner) finishBox(cursor);
    else corner = cursor;
  } else if (isBrush()) {
    brushTo(cursor);
    stroke = null;
    endStroke();
  } else clickAt(cursor);
}

/** Cancel the innermost thing: an unfinished box, the mask that is not kept, what is picked. */
function cancel() {
  if (corner) resetAnnotateTools();
  else if (state.correction) discardPending();
  else update({ picked: [] });
  setCrosshair((cursor = null));
}

/** Render the tool bar. */
export function renderAnnotateTools() {
  canvas.dataset.activeTool = state.tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  }
  byId("brush-label").hidden = !isBrush();
  byId("hint").textContent = HINTS[state.tool];
}
