/** The files that the server writes about a dialogue. */

import * as api from "./api.js";
import { byId, make } from "./dom.js";
import { fail } from "./problems.js";
import { state } from "./state.js";

async function save(format) {
  const round = format === "overlay" && state.shown !== "all" ? state.shown : null;
  try {
    const { blob, name } = await api.download(state.dialogue.id, format, round);
    const address = URL.createObjectURL(blob);
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    fail(error, () => save(format));
  }
}

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => {
    byId("downloads").open = false;
    save(button.dataset.download);
  });
}
