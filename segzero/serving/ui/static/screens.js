/** Screens: what is done with the open image. A button `[data-screen]` opens one, `[data-panel]` is its part beside
 * the picture; tools and other elements with `[data-only]` belong to one screen alone. */

import { discardCorrection } from "./correction.js";
import { state, update } from "./state.js";
import { resetTools } from "./tools.js";

/** Render which screen is open. */
export function renderScreens() {
  for (const button of document.querySelectorAll("[data-screen]")) {
    button.setAttribute("aria-pressed", String(button.dataset.screen === state.screen));
    button.disabled = Boolean(state.busy);
  }
  for (const panel of document.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== state.screen;
  for (const element of document.querySelectorAll("[data-only]")) {
    element.hidden = element.dataset.only !== state.screen;
  }
}

function openScreen(screen) {
  if (state.busy || screen === state.screen) return;
  discardCorrection();
  resetTools();
  update({ screen, selected: null, picked: [], tool: "select" });
}

for (const button of document.querySelectorAll("[data-screen]")) {
  button.addEventListener("click", () => openScreen(button.dataset.screen));
}
