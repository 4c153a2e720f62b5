/** Masks, boxes, points and numbers on a canvas whose unit is a pixel of the image; `unit` is a CSS pixel in those. */

import { css } from "./dom.js";
import { shapeOf } from "./masks.js";

export const NEW = [255, 255, 255]; // what is being drawn has no colour of its own yet
const ARM = 24; // CSS pixels, of the crosshair

/** Of a contour. */
export const edge = (color) => (color === NEW ? "#15181c" : css(color));

/** Filled, with a contour; `strong` is chosen. */
export function drawMask(pen, { rle, color }, opacity, unit, strong) {
  const { path } = shapeOf(rle);
  pen.fillStyle = css(color, opacity);
  pen.fill(path, "evenodd");
  pen.lineJoin = "round";
  pen.setLineDash([]);
  pen.lineWidth = (strong ? 6 : 4) * unit;
  pen.strokeStyle = strong ? "rgb(255 255 255 / .9)" : "rgb(0 0 0 / .35)";
  pen.stroke(path);
  pen.lineWidth = (strong ? 3 : 2) * unit;
  pen.strokeStyle = edge(color);
  pen.stroke(path);
}

/** Dashed. */
export function drawBox(pen, [x0, y0, x1, y1], style, unit) {
  for (const [width, stroke] of [[3.5, "rgb(0 0 0 / .45)"], [1.75, style]]) {
    pen.lineWidth = width * unit;
    pen.strokeStyle = stroke;
    pen.setLineDash([6 * unit, 4 * unit]);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  pen.setLineDash([]);
}

/** Points name whole pixels; a plus is inside, a minus outside. */
export function drawPoints(pen, { points, labels }, unit) {
  points.forEach(([px, py], place) => {
    const [x, y, inside] = [px + 0.5, py + 0.5, labels[place] !== 0];
    const arm = 3.5 * unit;
    pen.beginPath();
    pen.arc(x, y, 7.5 * unit, 0, 7);
    pen.fillStyle = inside ? "#fff" : "#16181b";
    pen.fill();
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = inside ? "#16181b" : "#fff";
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x - arm, y);
    pen.lineTo(x + arm, y);
    if (inside) {
      pen.moveTo(x, y - arm);
      pen.lineTo(x, y + arm);
    }
    pen.stroke();
  });
}

/** A number above a box, kept within what is seen: [x0, y0, x1, y1]. */
export function drawLabel(pen, text, { box, color }, seen, unit, strong) {
  const high = 20 * unit;
  pen.font = `600 ${13 * unit}px system-ui, sans-serif`;
  const wide = Math.max(high, pen.measureText(text).width + 10 * unit);
  const within = (value, low, most) => Math.min(Math.max(value, low + 2 * unit), most - 2 * unit);
  const x = within(box[0], seen[0], seen[2] - wide);
  const y = within(box[1] - high - 3 * unit, seen[1], seen[3] - high);
  pen.beginPath();
  pen.roundRect(x, y, wide, high, 6 * unit);
  pen.fillStyle = css(color);
  pen.fill();
  pen.lineWidth = (strong ? 2.5 : 1) * unit;
  pen.strokeStyle = strong ? "#fff" : "rgb(0 0 0 / .5)";
  pen.stroke();
  pen.fillStyle = dark(color) ? "#fff" : "#111418";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(text, x + wide / 2, y + high / 2 + 0.5 * unit);
}

/** Where the keyboard is. */
export function drawCrosshair(pen, [x, y], unit) {
  const [arm, gap] = [ARM * unit, 4 * unit];
  for (const [width, style] of [[4, "rgb(0 0 0 / .7)"], [2, "#fff"]]) {
    pen.lineWidth = width * unit;
    pen.strokeStyle = style;
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + dx * gap, y + dy * gap);
      pen.lineTo(x + dx * arm, y + dy * arm);
    }
    pen.stroke();
  }
}

const dark = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b < 110;
