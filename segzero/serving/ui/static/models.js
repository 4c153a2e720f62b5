/** Names of the models that answer, and pickers where the server offers several. */

import { byId, make } from "./dom.js";
import { state, update } from "./state.js";
import { restartDialogue } from "./upload.js";

const MEMORY_LABELS = { text: "as text", marks: "marked on the picture", crop: "cut out of the picture" };
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
  const used = {};
  for (const kind of KINDS) {
    used[kind] = dialogue?.[kind] ?? modelChoice[kind] ?? names[kind][0];
    renderPicker(kind, names[kind], modelChoice[kind] ?? used[kind]);
  }
  byId("models-line").textContent = `${used.policy} + ${used.segmenter}`;
  byId("policy-name").textContent = used.policy;
  byId("segmenter-name").textContent = used.segmenter;
  const summary = `${used.policy} (reads the question) and ${used.segmenter} (draws the masks)`;
  byId("models-summary").textContent = `Running here: ${summary}.`;
  const differs = dialogue && KINDS.some((kind) => modelChoice[kind] && modelChoice[kind] !== used[kind]);
  byId("models-restart").hidden = !differs;
  byId("models-restart").disabled = Boolean(busy);
}

/** Return the models' names, the default first. */
const sortedNames = (models) => [...models].sort((a, b) => b.default - a.default).map((model) => model.name);

function renderPicker(kind, names, chosen) {
  const picker = byId(`pick-${kind}`);
  picker.hidden = names.length < 2;
  if (byId(`${kind}-name`)) byId(`${kind}-name`).hidden = names.length > 1;
  if (picker.options.length !== names.length) {
    const labels = kind === "memory" ? MEMORY_LABELS : {};
    picker.replaceChildren(...names.map((name) => make("option", { value: name }, labels[name] ?? name)));
  }
  picker.value = chosen;
}

for (const kind of KINDS) {
  byId(`pick-${kind}`).addEventListener("change", (event) => {
    update({ modelChoice: { ...state.modelChoice, [kind]: event.target.value } });
  });
}
byId("models-restart").addEventListener("click", () => {
  byId("models").open = false;
  restartDialogue();
});
