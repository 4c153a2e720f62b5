/** Which models answer, and the pickers where there is a choice. */

import { byId, make } from "./dom.js";
import { reopen } from "./opening.js";
import { state, update } from "./state.js";

const MEANING = { text: "as text", marks: "marked on the picture", crop: "cut out of the picture" };
const PICKED = ["policy", "segmenter", "memory"];

/** The line in the head and what stands behind it. */
export function showModels() {
  const { server, dialogue, wanted, busy } = state;
  byId("models").hidden = !server;
  if (!server) return;
  const names = { policy: namesOf(server.policies), segmenter: namesOf(server.segmenters), memory: server.memories };
  const used = {};
  for (const what of PICKED) {
    used[what] = dialogue?.[what] ?? wanted[what] ?? names[what][0];
    fill(what, names[what], wanted[what] ?? used[what]);
  }
  byId("models-line").textContent = `${used.policy} + ${used.segmenter}`;
  byId("policy-name").textContent = used.policy;
  byId("segmenter-name").textContent = used.segmenter;
  const told = `${used.policy} (reads the question) and ${used.segmenter} (draws the masks)`;
  byId("models-of").textContent = `Running here: ${told}.`;
  const differs = dialogue && PICKED.some((what) => wanted[what] && wanted[what] !== used[what]);
  byId("models-again").hidden = !differs;
  byId("models-again").disabled = Boolean(busy);
}

/** The default first. */
const namesOf = (models) => [...models].sort((a, b) => b.default - a.default).map((each) => each.name);

function fill(what, names, chosen) {
  const picker = byId(`pick-${what}`);
  picker.hidden = names.length < 2;
  if (byId(`${what}-name`)) byId(`${what}-name`).hidden = names.length > 1;
  if (picker.options.length !== names.length) {
    const meaning = what === "memory" ? MEANING : {};
    picker.replaceChildren(...names.map((name) => make("option", { value: name }, meaning[name] ?? name)));
  }
  picker.value = chosen;
}

for (const what of PICKED) {
  byId(`pick-${what}`).addEventListener("change", (event) => {
    update({ wanted: { ...state.wanted, [what]: event.target.value } });
  });
}
byId("models-again").addEventListener("click", () => {
  byId("models").open = false;
  reopen();
});
