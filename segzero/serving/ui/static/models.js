/** Names of the models that answer, and pickers where the server offers several. */

import { byId, make } from "./dom.js";
import { state, update } from "./state.js";
import { restartDialogue } from "./upload.js";

const MEMORY_LABELS = { text: "as text", marks: "marked on the picture", crop: "cut out of the picture" };
const AT_ONCE = " (masks at once)"; // after the names of mask models
const KINDS = ["policy", "segmenter", "memory"];

/** Render the models' names in the header, and the menu behind them. */
export function renderModels() {
  const { server, dialogue, modelChoice, busy } = state;
  byId("models").hidden = !server;
  if (!server) return;
  const names = {
    policy: sortedNames(server.policies),
    segmenter: sortedNames(server.segmenters),
    memory: server.memories,
  };
  const maskModels = server.policies.filter((model) => model.mask_model).map((model) => model.name);
  const labels = { policy: Object.fromEntries(maskModels.map((name) => [name, name + AT_ONCE])), memory: MEMORY_LABELS };
  const used = {};
  for (const kind of KINDS) {
    used[kind] = dialogue?.[kind] ?? modelChoice[kind] ?? names[kind][0];
    if (kind === "memory" && !names.memory.includes(used.memory)) used.memory = names.memory[0]; // of a mask model
    renderPicker(kind, names[kind], modelChoice[kind] ?? used[kind], labels[kind] ?? {});
  }
  const noMemory = maskModels.includes(modelChoice.policy ?? used.policy);
  byId("pick-memory").hidden = noMemory;
  document.querySelector("label[for=pick-memory]").hidden = noMemory;
  byId("models-line").textContent = `${used.policy} + ${used.segmenter}`;
  byId("policy-name").textContent = used.policy;
  byId("segmenter-name").textContent = used.segmenter;
  const drawsItself = maskModels.includes(used.policy);
  const summary = drawsItself
    ? `${used.policy} (reads the question and draws the mask) and ${used.segmenter} (draws by hand)`
    : `${used.policy} (reads the question) and ${used.segmenter} (draws the masks)`;
  byId("models-summary").textContent = `Running here: ${summary}.`;
  const compared = noMemory ? ["policy", "segmenter"] : KINDS;
  const differs = dialogue && compared.some((kind) => modelChoice[kind] && modelChoice[kind] !== used[kind]);
  byId("models-restart").hidden = !differs;
  byId("models-restart").disabled = Boolean(busy);
}

/** Return the models' names, the default first. */
const sortedNames = (models) => [...models].sort((a, b) => b.default - a.default).map((model) => model.name);

function renderPicker(kind, names, chosen, labels) {
  const picker = byId(`pick-${kind}`);
  picker.hidden = names.length < 2;
  if (byId(`${kind}-name`)) byId(`${kind}-name`).hidden = names.length > 1;
  if (picker.options.length !== names.length) {
    picker.replaceChildren(...names.map((name) => make("option", { value: name }, labels[name] ?? name)));
  }
  picker.value = chosen;
}

for (const kind of KINDS) {
  byId(`pick-${kind}`).addEventListener("change", (event) => {
    const choice = { ...state.modelChoice, [kind]: event.target.value };
    const isMaskModel = state.server.policies.some((model) => model.mask_model && model.name === choice.policy);
    update({ modelChoice: isMaskModel ? { ...choice, memory: null } : choice });
  });
}
byId("models-restart").addEventListener("click", () => {
  byId("models").open = false;
  restartDialogue();
});
