/** List of instances: pick, merge, rename, delete, undo and export, the same on every screen that finds some.
 *
 * A screen `name` has an empty element `<div id="name-instances">` in index.html, and a place in `state.instances`:
 *
 *   addInstanceList("words");          // once, when its module is loaded; main.js subscribes renderInstances for all
 *   showInstances("words", masks);     // masks: [{rle, box, score, name?}, ...], as the server sends them, best first
 *   state.instances.words              // what is left of them: [{id, rle, box, score, name, color}, ...]
 *
 * The canvas shows the instances of the screen that is open. A click on one picks it, there or in the list; what is
 * picked can be merged or deleted. Ids stay as they are; colours differ as far as they can. A new image empties it.
 */

import { announce, byId, cssColor, icon, make } from "./dom.js";
import { decodeMask, encodeMask, maskArea } from "./masks.js";
import { drawMask, largestFirst } from "./overlay.js";
import { state, update } from "./state.js";

const GOLDEN_ANGLE = 137.508; // degrees: hues in such steps are spread evenly, however many there are
const MAX_HISTORY = 50;

const lists = new Map(); // screen -> {element parts, history, rows, rendered}

/** Make the list of a screen, in its element `<div id="screen-instances">`. */
export function addInstanceList(screen) {
  const button = (name, text, title, onclick) =>
    make("button", { type: "button", class: "quiet small", title, onclick }, icon(name), make("span", {}, text));
  const choice = (title, kind, run) => {
    const onclick = () => {
      menu.open = false;
      run(screen);
    };
    return make("button", { type: "button", onclick }, make("strong", {}, title), make("small", {}, kind));
  };
  const count = make("h3", { class: "count", role: "status" });
  const merge = button("layers", "Merge", "Make one instance of those that are picked", () => mergePicked(screen));
  const remove = button("clear", "Delete", "Delete what is picked (Delete)", () => deletePicked(screen));
  const undoHint = "Take back the last change of this list";
  const undo = make(
    "button",
    { type: "button", class: "quiet only-icon", title: undoHint, "aria-label": undoHint, onclick: () => undoChange(screen) },
    icon("undo"),
  );
  const summary = make("summary", { title: "Export", "aria-label": "Export" }, icon("download"));
  const panel = make(
    "div",
    { class: "menu-panel" },
    choice("COCO annotations", "JSON", exportCoco),
    choice("Picture with masks", "PNG", exportPicture),
  );
  const menu = make("details", { class: "menu" }, summary, panel);
  const rows = make("ul", { class: "instance-rows" });
  const bar = make("div", { class: "bar", role: "group", "aria-label": "Instances" }, count, merge, remove, undo, menu);
  byId(`${screen}-instances`).replaceChildren(bar, rows);
  byId(`${screen}-instances`).classList.add("instances");
  lists.set(screen, { count, merge, remove, undo, menu, rows, history: [], elements: new Map(), rendered: null });
}

/** Show what the server has found as the instances of a screen, in place of those before. */
export function showInstances(screen, masks) {
  const instances = masks.map(({ rle, box, score = null, name = "" }, place) => {
    return { id: place + 1, rle, box, score, name, color: distinctColor(place), points: [], labels: [] };
  });
  lists.get(screen).history = [];
  setInstances(screen, instances);
  announce(instances.length === 1 ? "1 instance" : `${instances.length} instances`);
}

/** Add an instance {rle, box, score, name} to a screen, or put it in the place of the one with this id. */
export function putInstance(screen, { rle, box, score, name }, id = null) {
  const before = state.instances[screen] ?? [];
  const own = { rle, box, score, name };
  if (id !== null) changeInstances(screen, before.map((each) => (each.id === id ? { ...each, ...own } : each)));
  else {
    const next = Math.max(0, ...before.map((each) => each.id)) + 1;
    const added = { id: next, ...own, color: distinctColor(next - 1), points: [], labels: [] };
    changeInstances(screen, [...before, added]);
  }
}

/** Pick an instance of the open screen, or let it go if it is picked. */
export function togglePick(id) {
  const { picked } = state;
  update({ picked: picked.includes(id) ? picked.filter((each) => each !== id) : [...picked, id] });
}

/** Render the lists of all screens. */
export function renderInstances() {
  for (const [screen, list] of lists) renderList(screen, list);
}

function renderList(screen, list) {
  const instances = state.instances[screen] ?? [];
  const picked = state.screen === screen ? state.picked.length : 0;
  if (!state.image) list.history = [];
  byId(`${screen}-instances`).hidden = !instances.length && !list.history.length;
  const all = instances.length === 1 ? "1 instance" : `${instances.length} instances`;
  list.count.textContent = picked ? `${picked} of ${instances.length} picked` : all;
  list.merge.disabled = picked < 2;
  list.remove.disabled = !picked;
  list.undo.disabled = !list.history.length;
  list.menu.classList.toggle("disabled", !instances.length);
  list.menu.querySelector("summary").tabIndex = instances.length ? 0 : -1;
  if (list.rendered !== instances) {
    list.rendered = instances;
    // A row is made anew only when its instance has changed in more than its name, so that typing is not lost.
    const known = list.elements;
    list.elements = new Map(instances.map((each) => [each.rle, known.get(each.rle) ?? row(screen, each)]));
    const wanted = [...list.elements.values()];
    // A row that is put in anew would lose the click that is under way.
    const isSame = wanted.length === list.rows.children.length && wanted.every((each, k) => each === list.rows.children[k]);
    if (!isSame) list.rows.replaceChildren(...wanted);
  }
  instances.forEach((instance) => {
    const element = list.elements.get(instance.rle);
    const isPicked = state.screen === screen && state.picked.includes(instance.id);
    element.classList.toggle("picked", isPicked);
    element.querySelector("input[type=checkbox]").checked = isPicked;
    const field = element.querySelector("input[type=text]");
    if (document.activeElement !== field) field.value = instance.name;
  });
}

function row(screen, { id, color, score }) {
  const dot = make("i", { class: "dot" });
  dot.style.background = cssColor(color);
  const box = make("input", { type: "checkbox", onchange: () => togglePick(id) });
  const label = make("label", {}, box, dot, `Instance ${id}`);
  const rename = (event) => renameInstance(screen, id, event.target.value.trim());
  const attributes = { type: "text", maxlength: 200, autocomplete: "off", placeholder: "Name", onchange: rename };
  const name = make("input", { ...attributes, "aria-label": `Name of instance ${id}` });
  const text = score === null ? "merged" : score.toFixed(2);
  const title = score === null ? "Merged by hand" : "Predicted IoU";
  return make("li", { class: "instance", "data-id": id }, label, name, make("small", { title }, text));
}

function setInstances(screen, instances) {
  update({ instances: { ...state.instances, [screen]: instances }, picked: [] });
}

/** Change the instances of a screen; undo brings back those before. */
function changeInstances(screen, instances) {
  const list = lists.get(screen);
  list.history = [...list.history.slice(1 - MAX_HISTORY), state.instances[screen]];
  setInstances(screen, instances);
}

function undoChange(screen) {
  const before = lists.get(screen).history.pop();
  if (before) setInstances(screen, before);
  announce(`${state.instances[screen].length} instances`);
}

function renameInstance(screen, id, name) {
  const { picked } = state;
  const renamed = state.instances[screen].map((each) => (each.id === id ? { ...each, name } : each));
  changeInstances(screen, renamed);
  update({ picked });
}

function deletePicked(screen) {
  const count = state.picked.length;
  changeInstances(screen, state.instances[screen].filter((each) => !state.picked.includes(each.id)));
  announce(count === 1 ? "1 instance is deleted" : `${count} instances are deleted`);
}

/** Merge what is picked into the first of them, which keeps its id and colour. */
function mergePicked(screen) {
  const parts = state.instances[screen].filter((each) => state.picked.includes(each.id));
  if (parts.length < 2) return;
  const [first, ...others] = parts.map((each) => decodeMask(each.rle));
  for (const { bits } of others) bits.forEach((bit, place) => bit && (first.bits[place] = 1));
  const side = (k) => Math[k < 2 ? "min" : "max"](...parts.map((each) => each.box[k]));
  const name = parts.find((each) => each.name)?.name ?? "";
  const merged = { ...parts[0], rle: encodeMask(first), box: [0, 1, 2, 3].map(side), score: null, name };
  const left = state.instances[screen].filter((each) => each === parts[0] || !parts.includes(each));
  changeInstances(screen, left.map((each) => (each === parts[0] ? merged : each)));
  announce(`${parts.length} instances are now instance ${merged.id}`);
}

/** Save the instances as a COCO data set of one image; each name is a category. */
function exportCoco(screen) {
  const { width, height, name: file } = state.image;
  const instances = state.instances[screen];
  const names = [...new Set(instances.map((each) => each.name || "object"))];
  const annotations = instances.map(({ id, rle, box: [x0, y0, x1, y1], score, name }) => {
    const place = { bbox: [x0, y0, x1 - x0, y1 - y0], area: maskArea(rle), segmentation: rle, iscrowd: 0 };
    const category = names.indexOf(name || "object") + 1;
    return { id, image_id: 1, category_id: category, ...place, ...(score !== null && { score }) };
  });
  const categories = names.map((each, place) => ({ id: place + 1, name: each }));
  const data = { images: [{ id: 1, file_name: file, width, height }], annotations, categories };
  save(new Blob([JSON.stringify(data)], { type: "application/json" }), `${stem(file)}_coco.json`);
}

/** Save the picture, at the resolution that is shown at most, with the masks drawn on it. */
function exportPicture(screen) {
  const { bitmap, width, height, name } = state.image;
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d");
  context.setTransform(bitmap.width / width, 0, 0, bitmap.height / height, 0, 0);
  context.drawImage(bitmap, 0, 0, width, height);
  const unit = Math.max(width, height) / 1000;
  for (const each of largestFirst(state.instances[screen])) drawMask(context, each, state.layers.opacity, unit, false);
  canvas.toBlob((blob) => save(blob, `${stem(name)}_masks.png`));
}

const stem = (name) => name.replace(/\.\w+$/, "");

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Return the colour [r, g, b] of the instance at this place: hues far apart, in three shades. */
function distinctColor(place) {
  const hue = (place * GOLDEN_ANGLE) % 360;
  const lightness = [0.55, 0.68, 0.42][place % 3];
  const chroma = 0.85 * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((shift) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input[type=text], textarea, select");
  if (event.key !== "Delete" || isTyping || !lists.has(state.screen) || !state.picked.length) return;
  event.preventDefault();
  deletePicked(state.screen);
});
