/** Canvas with the image and its overlay; conversion between positions on the page and in the image; zoom. */

import { byId, cssColor } from "./dom.js";
import { maskShape } from "./masks.js";
import {
  contourColor,
  drawBox,
  drawCrosshair,
  drawLabel,
  drawMask,
  drawPoints,
  largestFirst,
  LOOK_COLOR,
  NEW_COLOR,
} from "./overlay.js";
import { findRegion, shownLook, shownRegions, state } from "./state.js";

const MAX_ZOOM = 8;

const canvas = byId("canvas");
const stage = byId("stage");
let isScheduled = false;
let rendered = []; // the parts of the state that the canvas shows
let view = { zoom: 1, x: 0, y: 0 }; // zoom 1 shows the whole image; the visible part's corner in image pixels
let crosshair = null; // [x, y] in image pixels, while the keyboard moves it
let rubberBand = null; // the box [x0, y0, x1, y1] that is being dragged

new ResizeObserver(requestDraw).observe(stage);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", requestDraw);

function requestDraw() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    draw();
  });
}

/** Draw the canvas again if something on it has changed. */
export function renderCanvas() {
  const { image, rounds, shownRound, selected, look, layers, correction, screen, instances, picked } = state;
  const wanted = [image, rounds, shownRound, selected, look, layers, correction, screen, instances, picked];
  if (wanted.every((each, place) => each === rendered[place])) return;
  const isNewImage = image !== rendered[0];
  rendered = wanted;
  if (isNewImage && image) zoomBy(0);
  else requestDraw();
}

/** Show the crosshair at a point of the image, or hide it (null). */
export function setCrosshair(point) {
  crosshair = point;
  requestDraw();
}

/** Show the box that is being dragged, or hide it (null). */
export function setRubberBand(box) {
  rubberBand = box;
  requestDraw();
}

/** Return a pointer's position in image pixels, clipped to the image. */
export function imagePoint(event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const { image } = state;
  const x = view.x + ((event.clientX - left) / width) * (image.width / view.zoom);
  const y = view.y + ((event.clientY - top) / height) * (image.height / view.zoom);
  return [Math.min(Math.max(x, 0), image.width), Math.min(Math.max(y, 0), image.height)];
}

/** Return the number of CSS pixels per image pixel. */
export function displayScale() {
  return (canvas.getBoundingClientRect().width / state.image.width) * view.zoom;
}

/** Whether only a part of the image is visible. */
export const isZoomed = () => view.zoom > 1;

/** Zoom by a factor around a point of the image, which stays where it is. A factor of 0 shows the whole image. */
export function zoomBy(factor, [x, y] = viewCenter()) {
  const zoom = factor ? Math.min(Math.max(view.zoom * factor, 1), MAX_ZOOM) : 1;
  const ratio = view.zoom / zoom;
  setView(zoom, x - (x - view.x) * ratio, y - (y - view.y) * ratio);
}

/** Move the visible part of the image by a number of image pixels. */
export function pan(dx, dy) {
  setView(view.zoom, view.x + dx, view.y + dy);
}

/** Move the visible part of the image until a point is well inside it. */
export function reveal([x, y]) {
  const [width, height] = [state.image.width / view.zoom, state.image.height / view.zoom];
  const shift = (corner, side, value) => Math.min(Math.max(corner, value - 0.9 * side), value - 0.1 * side);
  if (isZoomed()) setView(view.zoom, shift(view.x, width, x), shift(view.y, height, y));
}

function viewCenter() {
  const { width, height } = state.image;
  return [view.x + width / view.zoom / 2, view.y + height / view.zoom / 2];
}

function setView(zoom, x, y) {
  const { width, height } = state.image;
  const clip = (corner, side) => Math.min(Math.max(corner, 0), side - side / zoom);
  view = { zoom, x: clip(x, width), y: clip(y, height) };
  canvas.classList.toggle("zoomed", zoom > 1);
  byId("zoom-level").textContent = `${Math.round(zoom * 100)} %`;
  requestDraw();
}

/** Return the region at a point of the image, or null. Of several, the one with the smallest box. */
export function regionAt(point) {
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const hits = shownRegions().filter((region) => maskShape(region.rle).contains(point));
  return hits.sort((a, b) => area(a) - area(b))[0] ?? null;
}

/** Draw regions, cropped to them with a margin, into a small square canvas. */
export function drawThumbnail(thumbnail, regions, color) {
  const { bitmap, width, height } = state.image;
  const [left, top, side] = thumbnailSquare(regions, width, height);
  const scale = thumbnail.width / side;
  const context = thumbnail.getContext("2d");
  context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  for (const region of regions) {
    const { path } = maskShape(region.rle);
    context.fillStyle = cssColor(color ?? region.color, 0.5);
    context.fill(path, "evenodd");
    context.lineWidth = 2.5 / scale;
    context.strokeStyle = contourColor(color ?? region.color);
    context.stroke(path);
  }
}

/** Return the square (left, top, side) around the regions with a margin; without regions, the middle of the image. */
function thumbnailSquare(regions, width, height) {
  const boxes = regions.map((region) => region.box).filter((box) => box);
  if (!boxes.length) {
    const side = Math.min(width, height);
    return [(width - side) / 2, (height - side) / 2, side];
  }
  const [x0, y0, x1, y1] = [0, 1, 2, 3].map((k) => Math[k < 2 ? "min" : "max"](...boxes.map((box) => box[k])));
  const wanted = Math.max(x1 - x0, y1 - y0) * 1.6; // a mask may be larger than its box
  const side = Math.min(Math.max(wanted, Math.max(width, height) / 4), Math.max(width, height));
  const corner = (middle, length) =>
    side >= length ? (length - side) / 2 : Math.min(Math.max(middle - side / 2, 0), length - side);
  return [corner((x0 + x1) / 2, width), corner((y0 + y1) / 2, height), side];
}

function draw() {
  const { image } = state;
  if (!image || !stage.clientWidth) return;
  const pixelRatio = fitCanvas(image);
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height); // images may be transparent
  const [scaleX, scaleY] = [(width / image.width) * view.zoom, (height / image.height) * view.zoom];
  context.setTransform(scaleX, 0, 0, scaleY, -view.x * scaleX, -view.y * scaleY);
  context.imageSmoothingQuality = "high";
  context.drawImage(image.bitmap, 0, 0, image.width, image.height);
  drawOverlay(context, pixelRatio / scaleX);
}

/** Size the canvas so that the image fills the stage, and return the canvas pixels per CSS pixel. */
function fitCanvas(image) {
  const style = getComputedStyle(stage);
  const maxWidth = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  // Where the page scrolls, the stage grows with the canvas, and the style sheet gives a share of the window instead.
  const share = parseFloat(style.getPropertyValue("--canvas-share"));
  const maxHeight = share * innerHeight || stage.clientHeight - 2 * parseFloat(style.paddingTop);
  const scale = Math.min(maxWidth / image.width, Math.max(maxHeight, 120) / image.height);
  const [cssWidth, cssHeight] = [image.width, image.height].map((side) => Math.floor(side * scale));
  canvas.style.width = `${cssWidth}px`;
  canvas.style.height = `${cssHeight}px`;
  const pixelRatio = Math.min(devicePixelRatio || 1, 3);
  const [width, height] = [cssWidth, cssHeight].map((side) => Math.max(1, Math.round(side * pixelRatio)));
  if (canvas.width !== width) canvas.width = width; // setting it clears the canvas
  if (canvas.height !== height) canvas.height = height;
  return pixelRatio;
}

function drawOverlay(context, unit) {
  const { image, correction, layers, selected, picked, screen } = state;
  const inOrder = screen === "ask" ? shownRegions() : largestFirst(shownRegions());
  const regions = inOrder.filter((region) => region.id !== correction?.id);
  const isSelected = ({ id }) => id === selected || picked.includes(id);
  // Of hundreds of instances only those that are picked have a box and a label.
  const marked = screen === "ask" ? regions : regions.filter(isSelected);
  const visible = [view.x, view.y, view.x + image.width / view.zoom, view.y + image.height / view.zoom];
  for (const each of layers.boxes ? marked : []) drawBox(context, each.box, cssColor(each.color), unit);
  for (const each of layers.masks ? regions : []) drawMask(context, each, layers.opacity, unit, isSelected(each));
  for (const each of layers.points ? regions : []) drawPoints(context, each, unit);
  for (const each of marked) drawLabel(context, each.name || String(each.id), each, visible, unit, isSelected(each));
  const look = shownLook();
  if (look && layers.masks) drawMask(context, { rle: look.rle, color: LOOK_COLOR }, layers.opacity, unit, false);
  if (look && layers.points) drawPoints(context, look, unit);
  if (correction) drawCorrection(context, correction, unit);
  if (rubberBand) drawBox(context, rubberBand, "#fff", unit);
  if (crosshair) drawCrosshair(context, crosshair, unit);
}

function drawCorrection(context, correction, unit) {
  const color = findRegion(correction.id)?.color ?? NEW_COLOR;
  const mask = correction.masks?.[correction.choice];
  if (correction.box) drawBox(context, correction.box, "#fff", unit);
  if (mask) drawMask(context, { rle: mask.rle, color }, state.layers.opacity, unit, true);
  drawPoints(context, correction, unit);
}
