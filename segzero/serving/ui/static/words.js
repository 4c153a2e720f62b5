/** Screen "By words": phrases and thresholds, run, the instances of each phrase, and a verdict on them. */

import * as api from "./api.js";
import { announce, byId, make } from "./dom.js";
import { reportError } from "./errors.js";
import { addInstanceList, showInstances } from "./instances.js";
import { state, update } from "./state.js";

const REFERS = /\b(it|its|that|them|they|those|other|instance)\b|\[REF/i; // words of questions about earlier answers
const MAX_EXAMPLES = 4;
const KINDS = { policy: "policies", segmenter: "segmenters" };
const VERDICTS = ["good", "bad"];

const form = byId("words-form");
const field = byId("words-phrases");
let abortController = null; // of the request that is running
let outcome = null; // {image, phrases, models}: the last run, each phrase as the server describes it
let renderedOutcome = null;
let renderedExamples = "";

addInstanceList("words");

/** Render the buttons, the values of the sliders, the pickers, the examples and what became of each phrase. */
export function renderWords() {
  const { busy, image } = state;
  const isRunning = Boolean(abortController);
  if (outcome && outcome.image !== image) outcome = null;
  byId("words-run").hidden = isRunning;
  byId("words-run").disabled = Boolean(busy) || !image;
  byId("words-clear").disabled = Boolean(busy) || (!field.value && !outcome);
  byId("words-stop").hidden = !isRunning;
  byId("words-busy").hidden = !isRunning;
  byId("words-flag").hidden = !outcome || !state.server?.flags;
  for (const output of form.querySelectorAll("output")) {
    output.value = Number(form.elements[output.htmlFor.value].value).toFixed(2);
  }
  for (const kind of Object.keys(KINDS)) renderPicker(kind);
  renderExamples(image);
  if (renderedOutcome !== outcome) {
    renderedOutcome = outcome;
    byId("words-outcome").replaceChildren(...(outcome?.phrases ?? []).map(describePhrase));
    byId("words-flag-status").textContent = "";
    byId("words-note").value = "";
  }
}

/** Render a picker of models, which is shown where there is a choice; a new dialogue's choice is the default. */
function renderPicker(kind) {
  const models = state.server?.[KINDS[kind]] ?? [];
  const picker = byId(`words-${kind}`);
  const names = models.map((model) => model.name);
  picker.hidden = document.querySelector(`label[for=words-${kind}]`).hidden = names.length < 2;
  if (picker.options.length === names.length) return;
  picker.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  picker.value = state.modelChoice[kind] ?? models.find((model) => model.default)?.name ?? names[0];
}

function renderExamples(image) {
  const questions = [image?.question, ...(image?.followups ?? [])].filter(Boolean);
  const phrases = questions.filter((each) => !REFERS.test(each)).slice(0, MAX_EXAMPLES);
  if (renderedExamples === phrases.join("\n")) return;
  renderedExamples = phrases.join("\n");
  const choose = (phrase) => {
    field.value = phrase;
    form.requestSubmit();
  };
  const chip = (phrase) => make("button", { type: "button", class: "chip", onclick: () => choose(phrase) }, phrase);
  byId("words-examples").replaceChildren(...phrases.map(chip));
}

function describePhrase({ phrase, presence, error, instances }) {
  const count = instances.length === 1 ? "1 instance" : `${instances.length} instances`;
  const found = error ? "the answer could not be read" : instances.length ? count : "nothing there";
  const sure = presence === null ? "" : `presence ${presence.toFixed(2)}`;
  return make("li", {}, make("strong", {}, phrase), ` ${found}`, make("small", {}, sure));
}

/** Return the phrases of the field, which commas separate. */
const phrasesOf = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);

async function run() {
  const phrases = phrasesOf(field.value);
  if (!state.image || state.busy || !phrases.length) return;
  const { image } = state;
  abortController = new AbortController();
  update({ busy: "Looking for the words", banner: null });
  announce("Looking for the words");
  try {
    const thresholds = { box: form.elements.box_threshold.value, text: form.elements.text_threshold.value };
    const models = { policy: byId("words-policy").value, segmenter: byId("words-segmenter").value };
    const found = await api.findWords(image.file, phrases, thresholds, models, abortController.signal);
    outcome = { image, phrases: found.phrases, models };
    showInstances(
      "words",
      found.phrases.flatMap(({ phrase, instances }) => instances.map((each) => ({ ...each, name: phrase }))),
    );
  } catch (error) {
    if (error.code === "aborted") announce("Stopped");
    else reportError(error, run);
  } finally {
    abortController = null;
    update({ busy: null });
  }
}

function clear() {
  field.value = "";
  outcome = null;
  for (const name of ["box_threshold", "text_threshold"]) form.elements[name].value = form.elements[name].defaultValue;
  showInstances("words", []);
  field.focus();
}

/** Send a verdict on each phrase, with the instances that have its name now. */
async function flag(verdict) {
  if (!outcome || state.busy) return;
  const { image, phrases, models } = outcome;
  const note = byId("words-note").value.trim();
  update({ busy: "Keeping the verdict", banner: null });
  try {
    for (const { phrase, error } of phrases) {
      if (error) continue;
      const masks = (state.instances.words ?? []).filter((each) => each.name === phrase).map((each) => each.rle);
      await api.flagWords(image.file, { phrase, masks: JSON.stringify(masks), verdict, note }, models);
    }
    byId("words-flag-status").textContent = `Kept as ${verdict}. Thank you.`;
  } catch (error) {
    reportError(error, () => flag(verdict));
  } finally {
    update({ busy: null });
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("input", renderWords);
byId("words-clear").addEventListener("click", clear);
byId("words-stop").addEventListener("click", () => abortController?.abort());
for (const verdict of VERDICTS) byId(`words-${verdict}`).addEventListener("click", () => flag(verdict));
