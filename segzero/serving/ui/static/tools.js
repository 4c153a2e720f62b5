/** Tools on the canvas: select, inside point, outside point, box. Pointer, touch and keyboard work alike. */

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
import { addPoint, chooseMask, discardCorrection, keepCorrection, removeLastPoint, setBox } from "./correction.js";
import { announce, byId } from "./dom.js";
import { togglePick } from "./instances.js";
import { shownLook, shownRegions, state, update } from "./state.js";

const TOOL_KEYS = { v: "select", p: "add", n: "remove", b: "box" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ARROW_STEP = 8; // CSS pixels
const FAST_ARROW_STEP = 40; // CSS pixels, with Shift
const MIN_DRAG = 4; // CSS pixels: a smaller box or a shorter drag was not meant
const ZOOM_STEP = 1.5;

const canvas = byId("canvas");
let boxCorner = null; // the first corner of the box that is being drawn
let cursor = null; // the position of the keyboard's crosshair
let drag = null; // {from, hasMoved}: the drag that moves the visible part of the image

/** Switch to a tool: "select", "add", "remove" or "box"; other screens than "ask" have the first alone. */
function setTool(tool) {
  if (state.screen !== "ask") return;
  boxCorner = null;
  setRubberBand(null);
  update({ tool });
}

/** Select the region that points and boxes correct; with null they draw a new one. */
export function selectRegion(id) {
  if (state.correction && state.correction.id !== id) discardCorrection();
  const round = state.rounds.find((each) => each.regions.some((region) => region.id === id));
  const shownRound = round && state.shownRound !== "all" ? round.number : state.shownRound;
  update({ selected: id, shownRound, look: null });
}

/** Cancel an unfinished box, a drag and the crosshair. */
export function resetTools() {
  boxCorner = cursor = drag = null;
  setRubberBand(null);
  setCrosshair(null);
}

/** Apply the tool at a point of the image; the box tool starts a box there. */
function useTool(point) {
  if (!state.dialogue || state.busy) return;
  if (state.screen !== "ask") {
    const region = regionAt(point);
    if (region) togglePick(region.id);
  } else if (state.tool === "box") boxCorner = point;
  else if (state.tool === "add") addPoint(point, 1);
  else if (state.tool === "remove") {
    if (state.selected || state.correction) addPoint(point, 0);
    else announce("Choose an instance first, or add a point inside");
  } else selectRegion(regionAt(point)?.id ?? null);
}

function finishBox(point) {
  if (!boxCorner) return;
  const box = boxBetween(boxCorner, point);
  boxCorner = null;
  setRubberBand(null);
  if (Math.min(box[2] - box[0], box[3] - box[1]) * displayScale() >= MIN_DRAG) setBox(box);
}

function boxBetween([ax, ay], [bx, by]) {
  const [low, high] = [Math.min, Math.max].map((pick) => [pick(ax, bx), pick(ay, by)]);
  return [...low.map(Math.floor), ...high.map(Math.ceil)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary || !state.image) return;
  setCrosshair((cursor = null));
  canvas.setPointerCapture(event.pointerId);
  if (state.tool === "box") useTool(imagePoint(event));
  else if (state.tool === "select" && isZoomed()) drag = { from: imagePoint(event), hasMoved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  const point = (boxCorner || drag) && imagePoint(event);
  if (boxCorner) setRubberBand(boxBetween(boxCorner, point));
  else if (drag) {
    const [dx, dy] = [drag.from[0] - point[0], drag.from[1] - point[1]];
    drag.hasMoved ||= Math.hypot(dx, dy) * displayScale() >= MIN_DRAG;
    if (drag.hasMoved) pan(dx, dy);
  }
});
canvas.addEventListener("pointerup", (event) => {
  if (event.button !== 0 || !event.isPrimary || !state.image) return;
  const wasDragged = drag?.hasMoved;
  drag = null;
  if (state.tool === "box") finishBox(imagePoint(event));
  else if (!wasDragged) useTool(imagePoint(event));
});
canvas.addEventListener("pointercancel", resetTools); // the finger scrolled the page
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
canvas.addEventListener("blur", () => cursor && resetTools());

canvas.addEventListener("keydown", (event) => {
  if (!state.image || event.ctrlKey || event.metaKey || event.altKey) return;
  if (ARROWS[event.key]) moveCursor(ARROWS[event.key], event.shiftKey ? FAST_ARROW_STEP : ARROW_STEP);
  else if (event.key === "Enter" && state.correction && !boxCorner) keepCorrection();
  else if (event.key === " " || event.key === "Enter") useToolAtCursor();
  else if (TOOL_KEYS[event.key]) setTool(TOOL_KEYS[event.key]);
  else if (event.key === "+" || event.key === "=") zoomBy(ZOOM_STEP, cursor ?? undefined);
  else if (event.key === "-") zoomBy(1 / ZOOM_STEP, cursor ?? undefined);
  else if (event.key === "0") zoomBy(0);
  else if (event.key === "Backspace" && state.correction) removeLastPoint();
  else if ("123".includes(event.key)) chooseMask(Number(event.key) - 1);
  else if (event.key === "Escape") cancel();
  else return;
  event.preventDefault();
});

/** Move the crosshair by `distance` CSS pixels. The first call only shows it, in the middle of the image. */
function moveCursor([dx, dy], distance) {
  const { width, height } = state.image;
  const [x, y] = cursor ?? [width / 2, height / 2];
  const step = cursor ? distance / displayScale() : 0;
  cursor = [Math.min(Math.max(x + dx * step, 0), width - 1), Math.min(Math.max(y + dy * step, 0), height - 1)];
  setCrosshair(cursor);
  reveal(cursor);
  if (boxCorner) setRubberBand(boxBetween(boxCorner, cursor));
  const region = regionAt(cursor);
  announce(`${Math.floor(cursor[0])}, ${Math.floor(cursor[1])}${region ? `, on instance ${region.id}` : ""}`);
}

function useToolAtCursor() {
  if (!cursor) moveCursor([0, 0], 0);
  else if (boxCorner) finishBox(cursor);
  else useTool(cursor);
}

/** Cancel the innermost thing: an unfinished box, the correction, the selection, or the look that is shown. */
function cancel() {
  if (boxCorner) setTool(state.tool);
  else if (state.correction) discardCorrection();
  else if (state.selected || shownLook()) selectRegion(null);
  else if (state.picked.length) update({ picked: [] });
  setCrosshair((cursor = null));
}

for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => setTool(button.dataset.tool));
}
for (const box of document.querySelectorAll("[data-layer]")) {
  box.addEventListener("change", () => update({ layers: { ...state.layers, [box.dataset.layer]: box.checked } }));
}
byId("opacity").addEventListener("input", (event) => {
  update({ layers: { ...state.layers, opacity: event.target.valueAsNumber / 100 } });
});

/** Render the tool bar and the hint that says what a click does. */
export function renderTools() {
  canvas.dataset.activeTool = state.tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  }
  byId("hint").textContent = hint();
}

function hint() {
  if (state.screen !== "ask") {
    if (!shownRegions().length) return "";
    return state.picked.length ? "Esc lets go of what is picked." : "Click an instance to pick it.";
  }
  const selected = state.selected ? `instance ${state.selected}` : null;
  switch (state.tool) {
    case "add":
      return selected ? `Click what belongs to ${selected}.` : "Click a thing to draw it as a new instance.";
    case "remove":
      if (selected) return `Click what does not belong to ${selected}.`;
      return "Choose an instance first, with Select or in the list.";
    case "box":
      if (selected) return `Drag a new box around ${selected}.`;
      return "Drag a box around a thing to draw it as a new instance.";
  }
  const look = shownLook();
  if (look) return `The mask ${look.action === "correct" ? "before it was corrected" : "at this look"}. Esc shows the result.`;
  if (selected) return `Points and boxes now correct ${selected}. Esc deselects it.`;
  if (shownRegions().length) return "Click an instance to choose it.";
  return state.rounds.length ? "This round has nothing to show." : "";
}
