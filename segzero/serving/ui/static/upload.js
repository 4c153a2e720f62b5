/** Image upload: a chosen, dropped or pasted file or an example, and the dialogue that is created about it. */

import * as api from "./api.js";
import { discardCorrection } from "./correction.js";
import { announce, byId, make } from "./dom.js";
import { asSentence, onDialogueExpired, reportError, showBanner } from "./errors.js";
import { setQuestion } from "./question.js";
import { state, update } from "./state.js";
import { reloadRounds } from "./sync.js";
import { resetTools } from "./tools.js";

const MAX_SIDE = 2400; // pixels of the longer side of the bitmap that is shown
const NO_IMAGE = {
  image: null,
  dialogue: null,
  rounds: [],
  instances: {},
  picked: [],
  undoSteps: 0,
  shownRound: null,
  selected: null,
  look: null,
  tool: "select",
};
let previous = null; // {image, dialogue, rounds, instances, undoSteps} of the dialogue before this one, which can be reopened

/** Create a dialogue about an image file. `replace` ends the current dialogue for good, without a way back to it. */
async function openImage(file, name, { question = "", followups = [], isExample = false, replace = false } = {}) {
  if (state.busy || !state.server) return;
  const { megabytes } = state.server.limits;
  if (file.size > megabytes * (1 << 20)) {
    const size = Math.ceil(file.size / (1 << 20));
    const limit = `this server takes up to ${megabytes} MB`;
    showBanner(`This picture is ${size} MB large; ${limit}. Make it smaller and try again.`);
    return;
  }
  update({ busy: "Sending the picture", banner: null });
  let created = null;
  try {
    created = await api.createDialogue(file, state.modelChoice);
    const bitmap = await decodeImage(file, created.size);
    closeImage(replace);
    const { id, policy, segmenter, memory, rounds, size } = created;
    const image = { file, name, bitmap, ...size, question, followups, isExample };
    update({ image, dialogue: { id, policy, segmenter, memory }, rounds });
    setQuestion(question);
    // On a touch screen the keyboard would appear and hide the picture.
    if (!matchMedia("(pointer: coarse)").matches) byId("question").focus({ preventScroll: true });
    announce(`${name} is open, ${size.width} by ${size.height} pixels`);
  } catch (error) {
    if (error.name === "InvalidStateError") { // thrown by createImageBitmap
      api.deleteDialogue(created.id);
      showBanner("This browser can't show that kind of picture. Save it as PNG, JPEG or WebP and try again.");
    } else if (error.status === 422) {
      showBanner(`${asSentence(error.message)} Choose another picture.`);
    } else reportError(error, () => openImage(file, name, { question, followups, isExample, replace }));
  } finally {
    update({ busy: null });
  }
}

/** Decode an image file upright (as its EXIF orientation says) at the resolution that is shown. */
export function decodeImage(file, { width, height }) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  return createImageBitmap(file, {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "high",
  });
}

/** Close the image and show the upload view. The dialogue can be reopened until the next one is closed, unless
 * `forGood`. */
export function closeImage(forGood = false) {
  const { image, dialogue, rounds, instances, undoSteps } = state;
  if (!dialogue) return;
  discardCorrection();
  resetTools();
  update({ ...NO_IMAGE, banner: null });
  const closed = { image, dialogue, rounds, instances, undoSteps };
  release(forGood ? closed : previous);
  if (!forGood) previous = closed;
  if (forGood || !(rounds.length || Object.values(instances).some((each) => each.length))) return;
  showBanner(`${image.name} is closed.`, { action: "Go back to it", run: reopenPrevious, isNotice: true });
}

function reopenPrevious() {
  const reopened = previous;
  previous = null;
  closeImage();
  update({ ...reopened, shownRound: reopened.rounds.at(-1)?.number ?? null, banner: null });
}

function release(closed) {
  if (!closed) return;
  api.leaveDialogue(closed.dialogue.id); // not deleted: another tab may show it
  closed.image.bitmap.close();
}

/** Create a new dialogue about the same image. */
export function restartDialogue() {
  const { file, name, followups, isExample } = state.image;
  openImage(file, name, { question: byId("question").value, followups, isExample, replace: true });
}

/** Load and show the server's example images. */
export async function loadExamples() {
  const examples = await api.listExamples();
  byId("examples-section").hidden = !examples.length;
  byId("examples").replaceChildren(...examples.map(exampleCard));
}

/** Create the card of an example. Its image is fetched once the card is visible. */
function exampleCard({ name, question, followups, image }) {
  let pending = null;
  const fetchOnce = () =>
    (pending ??= api.fetchBlob(image).catch((error) => {
      pending = null; // the next call tries again
      throw error;
    }));
  const options = { question, followups, isExample: true };
  const onclick = () => fetchOnce().then((file) => openImage(file, name, options), reportError);
  const thumbnail = make("img", { alt: "" });
  const label = make("span", {}, question || name);
  const button = make("button", { type: "button", class: "example", onclick }, thumbnail, label);
  const observer = new IntersectionObserver(([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    observer.disconnect();
    fetchOnce().then((file) => (thumbnail.src = URL.createObjectURL(file)), reportError);
  });
  observer.observe(button);
  return make("li", {}, button);
}

function openFirstImage(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) openImage(file, file.name || "picture");
}

onDialogueExpired(restartDialogue);
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  openFirstImage(event.target.files);
  event.target.value = ""; // else choosing the same file again would fire no event
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return; // text is pasted at the cursor
  event.preventDefault();
  openFirstImage(files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging-file");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging-file");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging-file");
  openFirstImage(event.dataTransfer.files);
});
addEventListener("pagehide", (event) => {
  if (!event.persisted && previous) api.leaveDialogue(previous.dialogue.id);
  if (state.dialogue) api.leaveDialogue(state.dialogue.id); // not deleted: the page may be reloaded
});
addEventListener("pageshow", (event) => {
  if (event.persisted && state.dialogue) reloadRounds(); // any request takes the dialogue's place back
});
