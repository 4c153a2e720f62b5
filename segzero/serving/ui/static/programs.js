/** Screen "Programs": a program, by hand or written for a question, run, and its trace. A click on a step shows it. */

import * as api from "./api.js";
import { announce, bringIntoView, byId, make } from "./dom.js";
import { reportError } from "./errors.js";
import { addInstanceList, showInstances } from "./instances.js";
import { state, update } from "./state.js";

const FIRST = 'A=FIND("all shapes")\nRESULT(LARGEST(A))'; // in the field of a page that was just opened
const form = byId("programs-form");
const source = byId("programs-source");
const question = byId("programs-question");
let abortController = null; // of the request that is running
let outcome = null; // {image, trace}: the last run, as the server describes it
let shown = null; // place of the step whose masks are on the picture
let rendered = null; // the trace that the list of steps shows

addInstanceList("programs");
source.value = FIRST;

/** Render the buttons, what became of the program, and its steps. */
export function renderPrograms() {
  const { busy, image, server } = state;
  const isRunning = Boolean(abortController);
  if (outcome && outcome.image !== image) outcome = null;
  const writer = server?.program_writer;
  for (const id of ["programs-question-label", "programs-question", "programs-write"]) byId(id).hidden = !writer;
  byId("programs-writer").textContent = writer ? `${writer} writes the program` : "";
  byId("programs-write").disabled = Boolean(busy) || !image || !question.value.trim();
  byId("programs-run").hidden = isRunning;
  byId("programs-run").disabled = Boolean(busy) || !image || !source.value.trim();
  byId("programs-stop").hidden = !isRunning;
  byId("programs-busy").hidden = !isRunning;
  const trace = outcome?.trace ?? null;
  byId("programs-outcome").textContent = trace ? describe(trace) : "";
  byId("programs-outcome").classList.toggle("failed", Boolean(trace?.error));
  if (rendered !== trace) {
    rendered = trace;
    byId("programs-trace").replaceChildren(...(trace?.steps ?? []).map(stepRow));
  }
  for (const [place, row] of [...byId("programs-trace").children].entries()) {
    row.firstElementChild.setAttribute("aria-pressed", String(place === shown));
  }
}

/** Tell the result, or why there is none. */
function describe({ error, type, result, steps, attempts, seconds }) {
  const mended = attempts.length > 1 ? " The first program could not be read and was mended." : "";
  if (error) return error.line ? `Line ${error.line}: ${error.message}` : error.message;
  const last = steps[steps.length - 1];
  const said = type === "Masks" ? last.summary : type === "Text" ? String(result) : `The answer is ${result}`;
  return `${said}, in ${seconds.toFixed(1)} s.${mended}`;
}

function stepRow(step, place) {
  const named = step.name ? `${step.name} = ` : "";
  const facts = `${step.summary} · ${step.milliseconds.toFixed(0)} ms`;
  const parts = [make("code", {}, `${named}${step.text}`), make("small", {}, `${step.type}: ${facts}`)];
  const note = step.note ? [make("small", { class: "note" }, step.note)] : [];
  return make("li", {}, make("button", { type: "button", class: "step", onclick: () => show(place) }, ...parts, ...note));
}

/** Show the masks of a step on the picture; a step of another type has none. */
function show(place) {
  if (!outcome || state.busy) return;
  shown = place;
  const step = outcome.trace.steps[place];
  const masks = step.type === "Masks" ? step.value.map((each) => ({ ...each, name: step.name })) : [];
  showInstances("programs", masks);
}

async function run(given) {
  if (!state.image || state.busy) return;
  const { image } = state;
  abortController = new AbortController();
  update({ busy: "Running the program", banner: null });
  announce("Running the program");
  try {
    const trace = await api.runProgram(image.file, given, chosenModels(), abortController.signal);
    outcome = { image, trace };
    if (trace.program) source.value = trace.program;
    const last = trace.steps.findLastIndex((step) => step.type === "Masks");
    shown = last < 0 ? null : last;
    showInstances("programs", trace.error || last < 0 ? [] : trace.steps[last].value);
    bringIntoView(byId("programs-outcome"));
  } catch (error) {
    if (error.code === "aborted") announce("Stopped");
    else reportError(error, () => run(given));
  } finally {
    abortController = null;
    update({ busy: null });
  }
}

function write() {
  if (question.value.trim()) run({ question: question.value.trim() });
}

function chosenModels() {
  const { dialogue, modelChoice, server } = state;
  const policy = dialogue?.policy ?? modelChoice.policy;
  const isMaskModel = server.policies.some((model) => model.mask_model && model.name === policy);
  return { policy: isMaskModel ? null : policy, segmenter: dialogue?.segmenter ?? modelChoice.segmenter };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run({ program: source.value });
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // else the form would run the program that is there
  write();
});
form.addEventListener("input", renderPrograms);
byId("programs-write").addEventListener("click", write);
byId("programs-stop").addEventListener("click", () => abortController?.abort());
