/** Masks: COCO's compressed run lengths -> pixels -> an outline that canvases draw at any scale. */

const MOST = 1600; // pixels of a mask's longer side; the outline of a larger one is traced on a smaller copy

/** The runs of a compressed RLE, outside and inside by turns: digits of five bits, lowest first, with a flag (32) for
 * "more". Each number is signed; from the fourth on, it is the difference to the run two places before. */
export function runsOf(counts) {
  const runs = [];
  let value = 0;
  let place = 0;
  for (let i = 0; i < counts.length; i++) {
    const digit = counts.charCodeAt(i) - 48;
    if (digit < 0 || digit > 63 || place > 25) throw new Error("malformed RLE");
    value |= (digit & 31) << place;
    place += 5;
    if (digit & 32) continue;
    if (digit & 16) value |= -1 << place;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    value = place = 0;
  }
  return runs;
}

/** {width, height, bits}: 0 or 1 for each pixel, row by row; a mask above `most` is sampled down to it. */
export function decode(rle, most = Infinity) {
  const [high, wide] = rle.size;
  const scale = Math.min(1, most / Math.max(high, wide));
  const width = Math.max(1, Math.round(wide * scale));
  const height = Math.max(1, Math.round(high * scale));
  const columns = new Int32Array(wide).fill(-1); // of the full mask -> of the small one; most have none
  for (let x = 0; x < width; x++) columns[Math.floor(((x + 0.5) * wide) / width)] = x;
  const firstRow = new Int32Array(high + 1).fill(height); // the first row of the small one at or below a full row
  for (let y = height - 1; y >= 0; y--) firstRow[Math.floor(((y + 0.5) * high) / height)] = y;
  for (let y = high - 1; y >= 0; y--) firstRow[y] = Math.min(firstRow[y], firstRow[y + 1]);

  const bits = new Uint8Array(width * height);
  let at = 0; // runs go down the columns
  runsOf(rle.counts).forEach((run, place) => {
    const end = at + run;
    if (run < 0 || end > high * wide) throw new Error("malformed RLE");
    while (place % 2 && at < end) {
      const column = Math.floor(at / high);
      const top = at - column * high;
      const bottom = Math.min(high, top + end - at);
      const x = columns[column];
      if (x >= 0) for (let y = firstRow[top]; y < firstRow[bottom]; y++) bits[y * width + x] = 1;
      at += bottom - top;
    }
    at = end;
  });
  if (at !== high * wide) throw new Error("malformed RLE");
  return { width, height, bits };
}

const known = new WeakMap(); // an RLE -> what was made of it

/** {path, has}: the outline in pixels of the image, and whether a point is inside. */
export function shapeOf(rle) {
  if (!known.has(rle)) {
    const mask = decode(rle, MOST);
    const across = rle.size[1] / mask.width;
    const down = rle.size[0] / mask.height;
    const path = new Path2D();
    for (const ring of outlines(mask)) {
      ring.forEach(([x, y], place) => (place ? path.lineTo(x * across, y * down) : path.moveTo(x * across, y * down)));
      path.closePath();
    }
    const has = ([x, y]) => mask.bits[Math.floor(y / down) * mask.width + Math.floor(x / across)] === 1;
    known.set(rle, { path, has });
  }
  return known.get(rle);
}

const STEP = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up
const AHEAD = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // from a corner: the pixel ahead on the right-hand side of each way

/** Closed rings of points around a mask and its holes, smoothed a little. */
export function outlines({ width, height, bits }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const seen = new Uint8Array(width * height); // pixels whose upper edge is in a ring
  const rings = [];
  for (let top = 0; top < height; top++) {
    for (let first = 0; first < width; first++) {
      if (seen[top * width + first] || !inside(first, top) || inside(first, top - 1)) continue;
      const ring = [];
      let [x, y, way] = [first, top, 0]; // along the edges between pixels, the mask always on the right-hand side
      do {
        if (way === 0) seen[y * width + x] = 1;
        const [dx, dy] = STEP[way];
        ring.push([x + dx / 2, y + dy / 2]);
        x += dx;
        y += dy;
        const [right, left] = [AHEAD[way], AHEAD[(way + 3) % 4]].map(([px, py]) => inside(x + px, y + py));
        way = (way + (!right ? 1 : left ? 3 : 0)) % 4;
      } while (x !== first || y !== top || way !== 0);
      rings.push(smooth(ring));
    }
  }
  return rings;
}

function smooth(ring) {
  const count = ring.length;
  return ring.map(([x, y], i) => {
    const [before, after] = [ring[(i + count - 1) % count], ring[(i + 1) % count]];
    return [(before[0] + 2 * x + after[0]) / 4, (before[1] + 2 * y + after[1]) / 4];
  });
}
