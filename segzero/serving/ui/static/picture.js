/** The picture with its overlay, on a canvas; and where on the picture something happens. */

import { byId, css } from "./dom.js";
import { drawBox, drawCrosshair, drawLabel, drawMask, drawPoints, edge, NEW } from "./marks.js";
import { shapeOf } from "./masks.js";
import { region, shownRegions, state } from "./state.js";

const CLOSEST = 8; // times

const canvas = byId("canvas");
const stage = byId("stage");
let waiting = false;
let drawn = []; // what the picture shows
let view = { times: 1, x: 0, y: 0 }; // how much larger than the whole picture, and its corner in pixels of the image
let crosshair = null; // [x, y] in pixels of the image, while the keyboard moves it
let band = null; // a box being drawn

new ResizeObserver(redraw).observe(stage);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

/** Draw at the next frame. */
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

/** Draw again if something on the picture has changed. */
export function showPicture() {
  const { picture, rounds, shown, selected, layers, draft } = state;
  const wanted = [picture, rounds, shown, selected, layers, draft];
  if (wanted.every((each, place) => each === drawn[place])) return;
  const another = picture !== drawn[0];
  drawn = wanted;
  if (another && picture) zoom(0);
  else redraw();
}

/** Show a crosshair there, or none. */
export function setCrosshair(point) {
  crosshair = point;
  redraw();
}

/** Show a box being drawn, or none. */
export function setBand(box) {
  band = box;
  redraw();
}

/** Where a pointer is, in pixels of the image; kept inside it. */
export function imagePoint(event) {
  const place = canvas.getBoundingClientRect();
  const { width, height } = state.picture;
  const x = view.x + ((event.clientX - place.left) / place.width) * (width / view.times);
  const y = view.y + ((event.clientY - place.top) / place.height) * (height / view.times);
  return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
}

/** CSS pixels for a pixel of the image. */
export function scaleNow() {
  return (canvas.getBoundingClientRect().width / state.picture.width) * view.times;
}

/** Whether only a part of the picture is to be seen. */
export const zoomed = () => view.times > 1;

/** Come closer (a factor above 1) or go back; the point of the image stays where it is. 0 shows the whole picture. */
export function zoom(factor, [x, y] = middle()) {
  const times = factor ? Math.min(Math.max(view.times * factor, 1), CLOSEST) : 1;
  const share = view.times / times;
  look(times, x - (x - view.x) * share, y - (y - view.y) * share);
}

/** Move what is seen by pixels of the image. */
export function pan(dx, dy) {
  look(view.times, view.x + dx, view.y + dy);
}

/** Move what is seen until a point of the image is in it. */
export function reveal([x, y]) {
  const [wide, high] = [state.picture.width / view.times, state.picture.height / view.times];
  const into = (corner, side, value) => Math.min(Math.max(corner, value - 0.9 * side), value - 0.1 * side);
  if (zoomed()) look(view.times, into(view.x, wide, x), into(view.y, high, y));
}

function middle() {
  const { width, height } = state.picture;
  return [view.x + width / view.times / 2, view.y + height / view.times / 2];
}

function look(times, x, y) {
  const { width, height } = state.picture;
  const within = (corner, side) => Math.min(Math.max(corner, 0), side - side / times);
  view = { times, x: within(x, width), y: within(y, height) };
  canvas.classList.toggle("zoomed", times > 1);
  byId("zoom-now").textContent = `${Math.round(times * 100)} %`;
  redraw();
}

/** The instance at a point of the image: the smallest box wins where several lie above each other. */
export function instanceAt(point) {
  const size = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const hit = shownRegions().filter((each) => shapeOf(each.rle).has(point));
  return hit.sort((a, b) => size(a) - size(b))[0] ?? null;
}

/** Draw what a round found, cut to what matters, into a small canvas. */
export function drawThumbnail(small, found, color) {
  const { image, width, height } = state.picture;
  const [x0, y0, side] = square(found, width, height);
  const scale = small.width / side;
  const pen = small.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, -x0 * scale, -y0 * scale);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  for (const each of found) {
    const path = shapeOf(each.rle).path;
    pen.fillStyle = css(color ?? each.color, 0.5);
    pen.fill(path, "evenodd");
    pen.lineWidth = 2.5 / scale;
    pen.strokeStyle = edge(color ?? each.color);
    pen.stroke(path);
  }
}

/** The square around what was found, with a margin: left, top, side. Around nothing: the middle of the picture. */
function square(found, width, height) {
  const boxes = found.map((each) => each.box).filter((box) => box);
  if (!boxes.length) {
    const side = Math.min(width, height);
    return [(width - side) / 2, (height - side) / 2, side];
  }
  const [x0, y0, x1, y1] = [0, 1, 2, 3].map((k) => Math[k < 2 ? "min" : "max"](...boxes.map((box) => box[k])));
  const wanted = Math.max(x1 - x0, y1 - y0) * 1.6; // a mask may be larger than its box
  const side = Math.min(Math.max(wanted, Math.max(width, height) / 4), Math.max(width, height));
  const within = (middle, length) =>
    side >= length ? (length - side) / 2 : Math.min(Math.max(middle - side / 2, 0), length - side);
  return [within((x0 + x1) / 2, width), within((y0 + y1) / 2, height), side];
}

function draw() {
  const { picture } = state;
  if (!picture || !stage.clientWidth) return;
  const style = getComputedStyle(stage);
  const wide = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const room = stage.clientHeight - 2 * parseFloat(style.paddingTop);
  const high = parseFloat(style.getPropertyValue("--most")) * innerHeight || room; // a page that scrolls says how much
  const scale = Math.min(wide / picture.width, Math.max(high, 120) / picture.height);
  const dots = Math.min(devicePixelRatio || 1, 3);
  const size = [picture.width * scale, picture.height * scale].map(Math.floor);
  size.forEach((side, k) => (canvas.style[k ? "height" : "width"] = `${side}px`));
  const [width, height] = size.map((side) => Math.max(1, Math.round(side * dots)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;

  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height); // pictures may be transparent
  const [across, down] = [(width / picture.width) * view.times, (height / picture.height) * view.times];
  const unit = dots / across; // a CSS pixel, in pixels of the image
  pen.setTransform(across, 0, 0, down, -view.x * across, -view.y * down);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture.image, 0, 0, picture.width, picture.height);
  const { draft, layers, selected } = state;
  const found = shownRegions().filter((each) => each.id !== draft?.id);
  const chosen = ({ id }) => id === selected;
  const seen = [view.x, view.y, view.x + picture.width / view.times, view.y + picture.height / view.times];
  for (const each of layers.boxes ? found : []) drawBox(pen, each.box, css(each.color), unit);
  for (const each of layers.masks ? found : []) drawMask(pen, each, layers.opacity, unit, chosen(each));
  for (const each of layers.points ? found : []) drawPoints(pen, each, unit);
  for (const each of found) drawLabel(pen, String(each.id), each, seen, unit, chosen(each));
  if (draft) drawDraft(pen, draft, unit);
  if (band) drawBox(pen, band, "#fff", unit);
  if (crosshair) drawCrosshair(pen, crosshair, unit);
}

function drawDraft(pen, draft, unit) {
  const color = region(draft.id)?.color ?? NEW;
  const mask = draft.masks?.[draft.choice];
  if (draft.box) drawBox(pen, draft.box, "#fff", unit);
  if (mask) drawMask(pen, { rle: mask.rle, color }, state.layers.opacity, unit, true);
  drawPoints(pen, draft, unit);
}
