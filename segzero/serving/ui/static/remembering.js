/** Which dialogue this tab has open, for a page that is loaded again. The dialogue itself is the server's to remember. */

import * as api from "./api.js";
import { announce } from "./dom.js";
import { readPicture } from "./opening.js";
import { complain, fail } from "./problems.js";
import { state, update } from "./state.js";
import { stillShown } from "./taking.js";

const KEPT = "segzero.dialogue";
let open = null; // the dialogue, as it was at the last change

/** Note what is open; what has been closed is forgotten. */
export function remember() {
  const { dialogue, picture, shown } = state;
  if (dialogue) {
    const { name, followups } = picture; // these the server does not know
    sessionStorage.setItem(KEPT, JSON.stringify({ id: dialogue.id, name, followups, shown }));
  } else if (open) forget();
  open = dialogue;
}

const forget = () => sessionStorage.removeItem(KEPT);

/** Open again what was open before the page was loaded, if the server still has it. */
export async function recall() {
  const kept = sessionStorage.getItem(KEPT);
  if (!kept || state.dialogue || state.busy) return;
  update({ busy: "Opening the picture again" });
  try {
    const { id, name, followups, shown } = JSON.parse(kept);
    const [there, file] = await Promise.all([api.look(id), api.image(id)]);
    const { size, policy, segmenter, memory, rounds, steps } = there;
    const models = { policy, segmenter, memory };
    update({
      picture: { file, name, image: await readPicture(file, size), ...size, followups },
      dialogue: { id, ...models },
      wanted: models, // by the next picture too
      rounds,
      steps,
      shown: stillShown(rounds, shown),
    });
    announce(`${name} is open again, with ${rounds.length === 1 ? "1 round" : `${rounds.length} rounds`}`);
  } catch (error) {
    if (error.code === "no_dialogue") {
      forget();
      complain("The server has forgotten the dialogue that was open here.", { calm: true });
    } else {
      if (error.status === undefined) forget(); // a mistake of this page's: the next try would make it again
      fail(error, recall);
    }
  } finally {
    update({ busy: null });
  }
}
