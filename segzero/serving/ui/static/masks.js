/** Masks: COCO's compressed run lengths -> pixels -> an outline that canvases draw at any scale. */

const MAX_SIDE = 1600; // pixels of a mask's longer side; the outline of a larger mask is traced on a smaller copy

/** Decode a compressed RLE into its runs, background and foreground in turns.
 *
 * Each number is written as digits of five bits, the lowest first, with a flag (32) on all but the last digit. Numbers
 * are signed; from the fourth on, each is the difference from the run two places before. */
function decodeRuns(counts) {
  const runs = [];
  let value = 0;
  let shift = 0;
  for (let i = 0; i < counts.length; i++) {
    const digit = counts.charCodeAt(i) - 48;
    if (digit < 0 || digit > 63 || shift > 25) throw new Error("malformed RLE");
    value |= (digit & 31) << shift;
    shift += 5;
    if (digit & 32) continue;
    if (digit & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    value = shift = 0;
  }
  return runs;
}

/** Decode an RLE into {width, height, bits}, 0 or 1 for each pixel, row by row; a mask whose longer side is above
 * `maxSide` is sampled down to it. */
export function decodeMask(rle, maxSide = Infinity) {
  const [fullHeight, fullWidth] = rle.size;
  const scale = Math.min(1, maxSide / Math.max(fullHeight, fullWidth));
  const width = Math.max(1, Math.round(fullWidth * scale));
  const height = Math.max(1, Math.round(fullHeight * scale));
  const columns = new Int32Array(fullWidth).fill(-1); // full column -> sampled column, -1 where it is left out
  for (let x = 0; x < width; x++) columns[Math.floor(((x + 0.5) * fullWidth) / width)] = x;
  const firstRow = new Int32Array(fullHeight + 1).fill(height); // full row -> first sampled row at or below it
  for (let y = height - 1; y >= 0; y--) firstRow[Math.floor(((y + 0.5) * fullHeight) / height)] = y;
  for (let y = fullHeight - 1; y >= 0; y--) firstRow[y] = Math.min(firstRow[y], firstRow[y + 1]);

  const bits = new Uint8Array(width * height);
  let position = 0; // runs go down the columns
  decodeRuns(rle.counts).forEach((run, place) => {
    const end = position + run;
    if (run < 0 || end > fullHeight * fullWidth) throw new Error("malformed RLE");
    while (place % 2 && position < end) {
      const column = Math.floor(position / fullHeight);
      const top = position - column * fullHeight;
      const bottom = Math.min(fullHeight, top + end - position);
      const x = columns[column];
      if (x >= 0) for (let y = firstRow[top]; y < firstRow[bottom]; y++) bits[y * width + x] = 1;
      position += bottom - top;
    }
    position = end;
  });
  if (position !== fullHeight * fullWidth) throw new Error("malformed RLE");
  return { width, height, bits };
}

/** Encode {width, height, bits} as an RLE, as `decodeMask` reads it. */
export function encodeMask({ width, height, bits }) {
  const runs = [];
  let value = 0;
  let run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (bits[y * width + x] !== value) {
        runs.push(run);
        run = 0;
        value = 1 - value;
      }
      run++;
    }
  }
  runs.push(run);
  const digits = [];
  runs.forEach((each, place) => {
    let number = place > 2 ? each - runs[place - 2] : each;
    for (;;) {
      const digit = number & 31;
      number >>= 5;
      const isLast = digit & 16 ? number === -1 : number === 0;
      digits.push(String.fromCharCode(48 + (isLast ? digit : digit | 32)));
      if (isLast) break;
    }
  });
  return { size: [height, width], counts: digits.join("") };
}

/** Return the number of pixels inside an RLE. */
export function maskArea(rle) {
  return decodeRuns(rle.counts).reduce((sum, run, place) => sum + (place % 2 ? run : 0), 0);
}

const shapes = new WeakMap(); // RLE -> its shape

/** Return {path, contains} of an RLE: its outline in image pixels, and a test whether a point is inside. */
export function maskShape(rle) {
  if (!shapes.has(rle)) {
    const mask = decodeMask(rle, MAX_SIDE);
    const scaleX = rle.size[1] / mask.width;
    const scaleY = rle.size[0] / mask.height;
    const path = new Path2D();
    for (const ring of traceOutlines(mask)) {
      ring.forEach(([x, y], place) => {
        if (place) path.lineTo(x * scaleX, y * scaleY);
        else path.moveTo(x * scaleX, y * scaleY);
      });
      path.closePath();
    }
    const contains = ([x, y]) => mask.bits[Math.floor(y / scaleY) * mask.width + Math.floor(x / scaleX)] === 1;
    shapes.set(rle, { path, contains });
  }
  return shapes.get(rle);
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // by direction: right, down, left, up
const RIGHT_AHEAD = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // by direction: from a corner to the pixel ahead on the right

/** Trace closed rings of points around a mask and its holes, slightly smoothed. */
function traceOutlines({ width, height, bits }) {
  const isInside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const traced = new Uint8Array(width * height); // pixels whose upper edge is part of a ring
  const rings = [];
  for (let top = 0; top < height; top++) {
    for (let left = 0; left < width; left++) {
      if (traced[top * width + left] || !isInside(left, top) || isInside(left, top - 1)) continue;
      const ring = [];
      let [x, y, direction] = [left, top, 0]; // along the edges between pixels, the mask always on the right-hand side
      do {
        if (direction === 0) traced[y * width + x] = 1;
        const [dx, dy] = STEPS[direction];
        ring.push([x + dx / 2, y + dy / 2]);
        x += dx;
        y += dy;
        const [rightAhead, leftAhead] = [direction, (direction + 3) % 4].map((each) => {
          const [px, py] = RIGHT_AHEAD[each];
          return isInside(x + px, y + py);
        });
        direction = (direction + (!rightAhead ? 1 : leftAhead ? 3 : 0)) % 4;
      } while (x !== left || y !== top || direction !== 0);
      rings.push(smooth(ring));
    }
  }
  return rings;
}

/** Average each point of a ring with its neighbours, weighted 1 : 2 : 1. */
function smooth(ring) {
  const count = ring.length;
  return ring.map(([x, y], i) => {
    const [before, after] = [ring[(i + count - 1) % count], ring[(i + 1) % count]];
    return [(before[0] + 2 * x + after[0]) / 4, (before[1] + 2 * y + after[1]) / 4];
  });
}
