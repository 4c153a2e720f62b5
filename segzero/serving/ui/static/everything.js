/** Screen "Everything": settings, run, and the instances that were found. */

import * as api from "./api.js";
import { announce, bringIntoView, byId } from "./dom.js";
import { reportError } from "./errors.js";
import { addInstanceList, showInstances } from "./instances.js";
import { state, update, usesShipped } from "./state.js";

const PRESETS = {
  sam2: { points_per_side: 32, pred_iou_thresh: 0.8, stability_thresh: 0.95 },
  sam: { points_per_side: 32, pred_iou_thresh: 0.88, stability_thresh: 0.95 },
  scenes: { points_per_side: 24, pred_iou_thresh: 0.8, stability_thresh: 0.85 }, // for the shipped segmenter
};
const form = byId("everything-form");
const fields = [...form.querySelectorAll("[name]")];
let abortController = null; // of the request that is running
let isForShipped = null; // whether the preset was chosen for the shipped segmenter
let outcome = null; // {image, text}: the last run, in words

addInstanceList("everything");

/** Render the button, the values of the sliders, and the last run in words. */
export function renderEverything() {
  const { busy, image, screen, server } = state;
  if (server && isForShipped !== usesShipped("segmenter")) {
    isForShipped = usesShipped("segmenter");
    byId("everything-preset").value = isForShipped ? "scenes" : "sam2";
    fillIn();
  }
  const isRunning = Boolean(abortController);
  byId("everything-run").hidden = isRunning;
  byId("everything-run").disabled = Boolean(busy) || !image;
  byId("everything-stop").hidden = !isRunning;
  byId("everything-busy").hidden = !isRunning;
  byId("everything-outcome").textContent = screen === "everything" && outcome?.image === image ? outcome.text : "";
  for (const output of form.querySelectorAll("output")) output.value = form.elements[output.htmlFor.value].value;
}

/** Fill in the settings of the preset. */
function fillIn() {
  const preset = PRESETS[byId("everything-preset").value];
  for (const [name, value] of Object.entries(preset)) form.elements[name].value = value;
}

async function run() {
  if (!state.image || state.busy || !form.reportValidity()) return;
  const { image } = state;
  abortController = new AbortController();
  update({ busy: "Finding everything", banner: null });
  announce("Finding everything");
  try {
    const settings = Object.fromEntries(fields.map((field) => [field.name, Number(field.value)]));
    const { masks } = await api.findEverything(image.file, settings, chosenSegmenter(), abortController.signal);
    outcome = { image, text: masks.length ? "" : "No mask passes these thresholds. Lower them and run again." };
    showInstances("everything", masks);
    bringIntoView(byId("everything-instances"));
  } catch (error) {
    if (error.code === "aborted") announce("Stopped");
    else reportError(error, run);
  } finally {
    abortController = null;
    update({ busy: null });
  }
}

const chosenSegmenter = () => state.dialogue?.segmenter ?? state.modelChoice.segmenter;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("input", renderEverything);
byId("everything-preset").addEventListener("change", () => {
  fillIn();
  renderEverything();
});
byId("everything-stop").addEventListener("click", () => abortController?.abort());
