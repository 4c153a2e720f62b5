/** Entry point: connects the modules, then loads the models, the examples and the dialogue of this tab. */

import * as api from "./api.js";
import { renderCanvas } from "./canvas.js";
import { renderCorrection } from "./correction.js";
import { byId } from "./dom.js";
import { onToken, renderBanner, reportError } from "./errors.js";
import { renderEverything } from "./everything.js";
import { renderInstances } from "./instances.js";
import { renderModels } from "./models.js";
import { renderPrograms } from "./programs.js";
import { insertText, renderQuestion } from "./question.js";
import { renderRounds, setRoundActions } from "./rounds.js";
import { renderScreens } from "./screens.js";
import { restoreSession, saveSession } from "./session.js";
import { state, subscribe, update, usesShipped } from "./state.js";
import { renderToolbar } from "./toolbar.js";
import { renderTools, selectRegion } from "./tools.js";
import { closeImage, loadExamples } from "./upload.js";
import { renderWords } from "./words.js";

async function start() {
  try {
    update({ server: await api.listModels() });
    await Promise.all([restoreSession(), loadExamples()]);
  } catch (error) {
    reportError(error, start);
  }
}

/** Show the upload view or the open image. */
function renderPage() {
  const { image, busy, pendingQuestion, server } = state;
  byId("upload").hidden = Boolean(image);
  byId("workspace").hidden = !image;
  byId("new").hidden = !image;
  byId("new").disabled = Boolean(busy);
  byId("choose").disabled = Boolean(busy) || !server;
  document.body.classList.toggle("busy", Boolean(busy));
  byId("busy").hidden = !busy || Boolean(pendingQuestion) || Boolean(image);
  byId("busy-text").textContent = busy ?? "";
  const isShipped = usesShipped("segmenter") || (state.screen !== "everything" && usesShipped("policy"));
  byId("only-scenes").hidden = !image || image.isExample || !isShipped;
  const label = image ? `${image.name}, ${image.width} by ${image.height} pixels` : "";
  byId("canvas").setAttribute("aria-label", label);
}

subscribe(renderPage);
subscribe(renderModels);
subscribe(renderBanner);
subscribe(renderScreens);
subscribe(renderTools);
subscribe(renderCorrection);
subscribe(renderToolbar);
subscribe(renderRounds);
subscribe(renderQuestion);
subscribe(renderEverything);
subscribe(renderWords);
subscribe(renderPrograms);
subscribe(renderInstances);
subscribe(renderCanvas);
subscribe(saveSession);
setRoundActions({
  select: (id) => selectRegion(id === state.selected ? null : id),
  refer: (number) => insertText(`[REF:${number}]`),
});
onToken(api.saveToken);

byId("new").addEventListener("click", () => {
  closeImage();
  byId("choose").focus();
});

// An open menu closes on a click elsewhere and on Escape.
addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

update({});
start();
