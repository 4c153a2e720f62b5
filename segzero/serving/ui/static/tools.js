/** The tools on the picture: pointer, touch and keyboard do the same. */

import { announce, byId } from "./dom.js";
import { addPoint, choose, discard, keep, setBox, stepBack } from "./draft.js";
import { imagePoint, instanceAt, pan, reveal, scaleNow, setBand, setCrosshair, zoom, zoomed } from "./picture.js";
import { shownRegions, state, update } from "./state.js";

const KEYS = { v: "select", p: "add", n: "remove", b: "box" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SMALLEST = 4; // CSS pixels: a shorter box, or way, was a slip
const CLOSER = 1.5; // a step of zooming

const canvas = byId("canvas");
let corner = null; // where a box begins
let cursor = null; // the keyboard's crosshair
let held = null; // {from, moved}: the pointer went down there, and moves the picture

/** Take a tool into the hand. */
export function take(tool) {
  corner = null;
  setBand(null);
  update({ tool });
}

/** Which instance points and boxes are for; null: a new one. */
export function select(id) {
  if (state.draft && state.draft.id !== id) discard();
  const round = state.rounds.find((each) => each.regions.some((region) => region.id === id));
  const shown = round && state.shown !== "all" ? round.number : state.shown;
  update({ selected: id, shown });
}

/** Forget what the tools were at. */
export function letGo() {
  corner = cursor = held = null;
  setBand(null);
  setCrosshair(null);
}

function begin(point) {
  if (!state.dialogue || state.busy) return;
  if (state.tool === "box") corner = point;
  else if (state.tool === "add") addPoint(point, 1);
  else if (state.tool === "remove") {
    if (state.selected || state.draft) addPoint(point, 0);
    else announce("Choose an instance first, or add a point inside");
  } else select(instanceAt(point)?.id ?? null);
}

function end(point) {
  if (!corner) return;
  const box = between(corner, point);
  corner = null;
  setBand(null);
  if (Math.min(box[2] - box[0], box[3] - box[1]) * scaleNow() >= SMALLEST) setBox(box);
}

function between([ax, ay], [bx, by]) {
  const [low, high] = [Math.min, Math.max].map((pick) => [pick(ax, bx), pick(ay, by)]);
  return [...low.map(Math.floor), ...high.map(Math.ceil)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary || !state.picture) return;
  setCrosshair((cursor = null));
  canvas.setPointerCapture(event.pointerId);
  if (state.tool === "box") begin(imagePoint(event));
  else if (state.tool === "select" && zoomed()) held = { from: imagePoint(event), moved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  const point = (corner || held) && imagePoint(event);
  if (corner) setBand(between(corner, point));
  else if (held) {
    const [dx, dy] = [held.from[0] - point[0], held.from[1] - point[1]];
    held.moved ||= Math.hypot(dx, dy) * scaleNow() >= SMALLEST;
    if (held.moved) pan(dx, dy);
  }
});
canvas.addEventListener("pointerup", (event) => {
  if (event.button !== 0 || !event.isPrimary || !state.picture) return;
  const dragged = held?.moved;
  held = null;
  if (state.tool === "box") end(imagePoint(event));
  else if (!dragged) begin(imagePoint(event));
});
canvas.addEventListener("pointercancel", letGo); // the finger scrolled the page
canvas.addEventListener(
  "wheel",
  (event) => {
    const page = document.scrollingElement;
    if (!event.ctrlKey && page.scrollHeight > page.clientHeight) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), imagePoint(event));
  },
  { passive: false },
);
byId("closer").addEventListener("click", () => zoom(CLOSER));
byId("farther").addEventListener("click", () => zoom(1 / CLOSER));
byId("zoom-now").addEventListener("click", () => zoom(0));
canvas.addEventListener("blur", () => cursor && letGo());

canvas.addEventListener("keydown", (event) => {
  if (!state.picture || event.ctrlKey || event.metaKey || event.altKey) return;
  if (ARROWS[event.key]) move(ARROWS[event.key], event.shiftKey ? 40 : 8);
  else if (event.key === "Enter" && state.draft && !corner) keep();
  else if (event.key === " " || event.key === "Enter") press();
  else if (KEYS[event.key]) take(KEYS[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(CLOSER, cursor ?? undefined);
  else if (event.key === "-") zoom(1 / CLOSER, cursor ?? undefined);
  else if (event.key === "0") zoom(0);
  else if (event.key === "Backspace" && state.draft) stepBack();
  else if ("123".includes(event.key)) choose(Number(event.key) - 1);
  else if (event.key === "Escape") escape();
  else return;
  event.preventDefault();
});

function move([dx, dy], far) {
  const { width, height } = state.picture;
  const [x, y] = cursor ?? [width / 2, height / 2];
  const step = cursor ? far / scaleNow() : 0; // the first arrow shows where it is
  cursor = [Math.min(Math.max(x + dx * step, 0), width - 1), Math.min(Math.max(y + dy * step, 0), height - 1)];
  setCrosshair(cursor);
  reveal(cursor);
  if (corner) setBand(between(corner, cursor));
  const over = instanceAt(cursor);
  announce(`${Math.floor(cursor[0])}, ${Math.floor(cursor[1])}${over ? `, on instance ${over.id}` : ""}`);
}

function press() {
  if (!cursor) move([0, 0], 0);
  else if (corner) end(cursor);
  else begin(cursor);
}

function escape() {
  if (corner) take(state.tool);
  else if (state.draft) discard();
  else if (state.selected) select(null);
  setCrosshair((cursor = null));
}

for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => take(button.dataset.tool));
}
for (const box of document.querySelectorAll("[data-layer]")) {
  box.addEventListener("change", () => update({ layers: { ...state.layers, [box.dataset.layer]: box.checked } }));
}
byId("opacity").addEventListener("input", (event) => {
  update({ layers: { ...state.layers, opacity: event.target.valueAsNumber / 100 } });
});

/** The tool bar and the line that says what a click does. */
export function showTools() {
  canvas.dataset.held = state.tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  }
  byId("hint").textContent = hint();
}

function hint() {
  const which = state.selected ? `instance ${state.selected}` : null;
  switch (state.tool) {
    case "add":
      return which ? `Click what belongs to ${which}.` : "Click a thing to draw it as a new instance.";
    case "remove":
      if (which) return `Click what does not belong to ${which}.`;
      return "Choose an instance first, with Select or in the list.";
    case "box":
      return which ? `Drag a new box around ${which}.` : "Drag a box around a thing to draw it as a new instance.";
  }
  if (which) return `Points and boxes now correct ${which}. Esc lets go of it.`;
  if (shownRegions().length) return "Click an instance to choose it.";
  return state.rounds.length ? "This round has nothing to show." : "";
}
