/** Entry point of the annotation page: takes images of the server's project one after the other, and saves them.
 *
 * Every change is saved at once. If somebody else has saved the image meanwhile, nothing is lost: theirs is loaded, and
 * what is new here is added to it. */

import { renderAnnotateTools, resetAnnotateTools, setAnnotateTool, useKey } from "./annotate_tools.js";
import * as api from "./api.js";
import { renderCanvas } from "./canvas.js";
import { announce, byId, make } from "./dom.js";
import { asSentence, onToken, renderBanner, reportError, showBanner } from "./errors.js";
import { addInstanceList, putInstance, renderInstances, showInstances } from "./instances.js";
import { discardPending, pendingMask, renderPending } from "./pending_mask.js";
import { state, subscribe, update } from "./state.js";

const SAVE_DELAY = 300; // milliseconds: changes that follow each other are saved together
const MOST_CHIPS = 12;

const origin = new WeakMap(); // RLE -> {id, how} of the saved instance that it is
let saved = null; // the instances that the server has
let refused = null; // the instances that it did not take, which are not sent again by themselves
let saving = Promise.resolve();
let timer = null;
let chips = "";

addInstanceList("annotate");
Object.assign(state, { screen: "annotate", tool: "add", project: null, entry: null, isFinished: false });

async function start() {
  try {
    update({ project: await api.annotationProgress() });
    await openNext();
  } catch (error) {
    if (error.code === "no_project") showBanner(asSentence(error.message));
    else reportError(error, start);
  }
}

/** Take the next image, and show it. */
async function openNext() {
  update({ busy: "Opening the next picture" });
  try {
    const { image } = await api.nextAnnotation(state.entry?.id ?? "");
    if (image) await show(image);
    else close();
  } catch (error) {
    reportError(error, openNext);
  } finally {
    update({ busy: null });
  }
  api.annotationProgress().then((project) => update({ project }), reportError);
}

function close() {
  state.image?.bitmap.close();
  saved = [];
  update({ image: null, entry: null, isFinished: true, instances: {}, picked: [] });
}

async function show({ id, name, width, height, revision, instances }) {
  const bitmap = await createImageBitmap(await api.annotationFile(id));
  discardPending();
  state.image?.bitmap.close();
  update({ image: { name, bitmap, width, height }, entry: { id, revision }, isFinished: false });
  showSaved(instances);
  announce(`${name} is open, ${width} by ${height} pixels`);
}

/** Show instances as the server has them, and behind them others that it does not have yet. */
function showSaved(instances, others = []) {
  for (const { id, how, rle } of instances) origin.set(rle, { id, how });
  showInstances("annotate", [...instances.map((each) => ({ ...each, name: each.label })), ...others]);
  saved = state.instances.annotate;
  if (others.length) {
    saved = null;
    scheduleSave();
  }
}

/** Keep the mask that is chosen, under the label that is written. */
function keep() {
  const mask = pendingMask();
  if (!mask || state.busy) return;
  const before = state.instances.annotate.find((each) => each.id === mask.id);
  origin.set(mask.rle, { id: before && origin.get(before.rle)?.id, how: mask.how });
  const name = before ? before.name : byId("label").value.trim();
  putInstance("annotate", { rle: mask.rle, box: mask.box, score: mask.score, name }, mask.id);
  discardPending();
  announce(name ? `Kept as ${name}` : "Kept without a label");
}

const toServer = ({ rle, name, score }) => {
  const { id, how } = origin.get(rle) ?? { how: "brush" }; // merged instances have no origin
  return { ...(id && { id }), label: name, rle, how, ...(score !== null && { score }) };
};

function scheduleSave() {
  clearTimeout(timer);
  timer = setTimeout(() => save(false), SAVE_DELAY);
}

/** Save the instances, after what is being saved already; return whether the server has them. */
function save(done) {
  clearTimeout(timer);
  const { entry } = state;
  saving = saving.then(async () => {
    if (!entry || entry !== state.entry) return false;
    const sent = state.instances.annotate ?? [];
    if (sent === saved && !done) return true;
    try {
      const answer = await api.saveAnnotation(entry.id, { revision: entry.revision, instances: sent.map(toServer), done });
      entry.revision = answer.revision;
      answer.instances.forEach(({ id, how }, place) => origin.set(sent[place].rle, { id, how }));
      saved = sent;
      return true;
    } catch (error) {
      refused = sent;
      if (error.code === "conflict") showBanner(asSentence(error.message), { action: "Take theirs, add mine", run: joinTheirs });
      else if (error.code === "lent") showBanner(asSentence(error.message), { action: "Next picture", run: openNext });
      else reportError(error, () => save(done));
      return false;
    }
  });
  return saving;
}

/** Load what somebody else has saved, and add what is new here. */
async function joinTheirs() {
  const known = new Set((saved ?? []).map((each) => each.rle));
  const mine = state.instances.annotate.filter((each) => !known.has(each.rle));
  try {
    const theirs = await api.getAnnotation(state.entry.id);
    for (const { rle } of mine) origin.set(rle, { how: origin.get(rle)?.how ?? "brush" });
    update({ entry: { id: theirs.id, revision: theirs.revision } });
    showSaved(theirs.instances, mine);
  } catch (error) {
    reportError(error, joinTheirs);
  }
}

async function finish() {
  if (!state.entry || state.busy) return;
  if (pendingMask()) keep();
  update({ busy: "Saving" });
  const isSaved = await save(true);
  update({ busy: null });
  if (isSaved) openNext();
}

async function skip() {
  if (!state.entry || state.busy) return;
  update({ busy: "Saving" });
  const isSaved = await save(false);
  update({ busy: null });
  if (!isSaved) return;
  api.leaveAnnotation(state.entry.id);
  openNext();
}

/** Give the label to what is picked; without that, it is the next mask's. */
function useLabel(name) {
  byId("label").value = name;
  const { picked } = state;
  for (const id of picked) {
    const instance = state.instances.annotate.find((each) => each.id === id);
    putInstance("annotate", { ...instance, name }, id);
  }
  if (picked.length) update({ picked });
}

function renderAnnotate() {
  const { project, image, entry, instances, isFinished, busy } = state;
  byId("workspace").hidden = !image;
  byId("finished").hidden = !isFinished;
  document.body.classList.toggle("busy", Boolean(busy));
  byId("done").disabled = byId("skip").disabled = Boolean(busy);
  byId("canvas").setAttribute("aria-label", image ? `${image.name}, ${image.width} by ${image.height} pixels` : "");
  if (entry && saved && instances.annotate && ![saved, refused].includes(instances.annotate)) scheduleSave();
  if (!project) return;
  const { done, images, stage, annotator, labels } = project;
  byId("progress").value = images ? done / images : 0;
  byId("progress-line").textContent = `${done} of ${images} done · ${stage} · ${annotator}`;
  const left = images - done;
  byId("finished-text").textContent = left ? `${left} pictures are with other annotators.` : `All ${images} pictures are done.`;
  const used = new Set([...(instances.annotate ?? []).map((each) => each.name), ...Object.keys(labels)]);
  used.delete("");
  renderLabels([...used]);
}

function renderLabels(names) {
  for (const field of document.querySelectorAll("#annotate-instances input[type=text]")) field.setAttribute("list", "labels");
  if (chips === names.join("\n")) return;
  chips = names.join("\n");
  byId("labels").replaceChildren(...names.map((value) => make("option", { value })));
  const chip = (name) => make("button", { type: "button", onclick: () => useLabel(name) }, name);
  byId("label-chips").replaceChildren(...names.slice(0, MOST_CHIPS).map(chip));
}

for (const render of [renderBanner, renderAnnotateTools, renderPending, renderInstances, renderAnnotate, renderCanvas]) {
  subscribe(render);
}
onToken(api.saveToken);
byId("keep").addEventListener("click", keep);
byId("discard").addEventListener("click", discardPending);
byId("done").addEventListener("click", finish);
byId("skip").addEventListener("click", skip);
byId("look-again").addEventListener("click", openNext);
byId("label").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  if (state.picked.length) useLabel(event.target.value.trim());
  else keep();
  byId("canvas").focus();
});

addEventListener("keydown", (event) => {
  if (event.altKey || event.target.closest("input[type=text], input[type=password], dialog")) return;
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if ((event.ctrlKey || event.metaKey) && !isUndo) return;
  if (isUndo) document.querySelector("#annotate-instances [aria-label^='Take back']").click();
  else if (event.key === "Enter" && state.correction && !event.target.closest("button:not(.mask)")) keep();
  else if (event.key === "d") finish();
  else if (event.key === "s") skip();
  else if (event.key === "l") byId("label").select();
  else if (!useKey(event)) return;
  event.preventDefault();
});
addEventListener("pagehide", () => {
  if (state.entry) api.leaveAnnotation(state.entry.id);
});

resetAnnotateTools();
setAnnotateTool("add");
start();
