/** Drawing of masks, boxes, points and labels.
 * `context` is a canvas context in image pixels; `unit` is the size of one CSS pixel in image pixels. */

import { cssColor } from "./dom.js";
import { maskShape } from "./masks.js";

export const NEW_COLOR = [255, 255, 255]; // a new region has no colour yet
export const LOOK_COLOR = [255, 0, 255]; // the outline of the mask in the picture that the policy looks at
const CROSSHAIR_ARM = 24; // CSS pixels

/** Return the colour of a mask's contour. */
export const contourColor = (color) => (color === NEW_COLOR ? "#15181c" : cssColor(color));

/** Draw a filled mask and its contour, which is thicker where the region is selected. */
export function drawMask(context, { rle, color }, opacity, unit, isSelected) {
  const { path } = maskShape(rle);
  context.fillStyle = cssColor(color, opacity);
  context.fill(path, "evenodd");
  context.lineJoin = "round";
  context.setLineDash([]);
  context.lineWidth = (isSelected ? 6 : 4) * unit;
  context.strokeStyle = isSelected ? "rgb(255 255 255 / .9)" : "rgb(0 0 0 / .35)";
  context.stroke(path);
  context.lineWidth = (isSelected ? 3 : 2) * unit;
  context.strokeStyle = contourColor(color);
  context.stroke(path);
}

/** Draw a dashed box with a dark outline. */
export function drawBox(context, [x0, y0, x1, y1], color, unit) {
  for (const [width, style] of [[3.5, "rgb(0 0 0 / .45)"], [1.75, color]]) {
    context.lineWidth = width * unit;
    context.strokeStyle = style;
    context.setLineDash([6 * unit, 4 * unit]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  context.setLineDash([]);
}

/** Draw points at the centres of their pixels: a plus for inside (label 1), a minus for outside (label 0). */
export function drawPoints(context, { points, labels }, unit) {
  points.forEach(([px, py], place) => {
    const [x, y, isInside] = [px + 0.5, py + 0.5, labels[place] !== 0];
    const arm = 3.5 * unit;
    context.beginPath();
    context.arc(x, y, 7.5 * unit, 0, 7);
    context.fillStyle = isInside ? "#fff" : "#16181b";
    context.fill();
    context.lineWidth = 2 * unit;
    context.strokeStyle = isInside ? "#16181b" : "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (isInside) {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
    context.stroke();
  });
}

/** Draw a region's label above its box, kept inside the visible part of the image [x0, y0, x1, y1]. */
export function drawLabel(context, text, { box, color }, visible, unit, isSelected) {
  const height = 20 * unit;
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  const width = Math.max(height, context.measureText(text).width + 10 * unit);
  const clamp = (value, low, high) => Math.min(Math.max(value, low + 2 * unit), high - 2 * unit);
  const x = clamp(box[0], visible[0], visible[2] - width);
  const y = clamp(box[1] - height - 3 * unit, visible[1], visible[3] - height);
  context.beginPath();
  context.roundRect(x, y, width, height, 6 * unit);
  context.fillStyle = cssColor(color);
  context.fill();
  context.lineWidth = (isSelected ? 2.5 : 1) * unit;
  context.strokeStyle = isSelected ? "#fff" : "rgb(0 0 0 / .5)";
  context.stroke();
  context.fillStyle = isDark(color) ? "#fff" : "#111418";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, x + width / 2, y + height / 2 + 0.5 * unit);
}

/** Draw the crosshair that the keyboard moves. */
export function drawCrosshair(context, [x, y], unit) {
  const [arm, gap] = [CROSSHAIR_ARM * unit, 4 * unit];
  for (const [width, style] of [[4, "rgb(0 0 0 / .7)"], [2, "#fff"]]) {
    context.lineWidth = width * unit;
    context.strokeStyle = style;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * gap, y + dy * gap);
      context.lineTo(x + dx * arm, y + dy * arm);
    }
    context.stroke();
  }
}

/** Order regions for drawing, so that none hides a smaller one. */
export function largestFirst(regions) {
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  return [...regions].sort((a, b) => area(b) - area(a));
}

const isDark = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b < 110;
