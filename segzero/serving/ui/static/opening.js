/** A picture comes in: chosen, dropped, pasted or an example; a dialogue about it begins. */

import * as api from "./api.js";
import { announce, byId, make } from "./dom.js";
import { discard } from "./draft.js";
import { complain, fail, onExpired, sentence } from "./problems.js";
import { state, update } from "./state.js";
import { takeAll } from "./taking.js";
import { letGo } from "./tools.js";

const SHARPEST = 2400; // pixels of the longer side that are kept to be shown
const BLANK = { picture: null, dialogue: null, rounds: [], steps: 0, shown: null, selected: null, tool: "select" };
let former = null; // the dialogue before this one, to go back to

/** Begin a dialogue about a picture file; with `again` it takes the place of the one before. */
export async function open(file, name, { question = "", followups = [], again = false } = {}) {
  if (state.busy || !state.server) return;
  const most = state.server.limits.megabytes;
  if (file.size > most * (1 << 20)) {
    const size = Math.ceil(file.size / (1 << 20));
    complain(`This picture has ${size} MB; this server takes up to ${most} MB. Make it smaller and try again.`);
    return;
  }
  update({ busy: "Sending the picture", problem: null });
  let begun = null;
  try {
    begun = await api.begin(file, state.wanted);
    const image = await readPicture(file, begun.size);
    leave(again);
    const { id, policy, segmenter, memory } = begun;
    update({
      picture: { file, name, image, ...begun.size, followups },
      dialogue: { id, policy, segmenter, memory },
      rounds: begun.rounds,
    });
    byId("question").value = question;
    byId("question").dispatchEvent(new Event("input"));
    // On a touch screen the keyboard would come up and hide the picture.
    if (!matchMedia("(pointer: coarse)").matches) byId("question").focus({ preventScroll: true });
    announce(`${name} is open, ${begun.size.width} by ${begun.size.height} pixels`);
  } catch (error) {
    if (error.name === "InvalidStateError") {
      api.forget(begun.id);
      complain("This browser can't show that kind of picture. Save it as PNG, JPEG or WebP and try again.");
    } else if (error.status === 422) {
      complain(`${sentence(error.message)} Choose another picture.`);
    } else fail(error, () => open(file, name, { question, followups, again }));
  } finally {
    update({ busy: null });
  }
}

/** What is drawn of a picture file: upright, and as sharp as a screen can show. */
export function readPicture(file, { width, height }) {
  const scale = Math.min(1, SHARPEST / Math.max(width, height));
  return createImageBitmap(file, {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "high",
  });
}

/** Back to the first view. The dialogue can be gone back to until the next one is left, unless it is `over`. */
export function leave(over = false) {
  const { picture, dialogue, rounds, steps } = state;
  if (!dialogue) return;
  discard();
  letGo();
  update({ ...BLANK, problem: null });
  const left = { picture, dialogue, rounds, steps };
  end(over ? left : former);
  if (!over) former = left;
  if (over || !rounds.length) return;
  complain(`${picture.name} is closed.`, { action: "Go back to it", run: goBack, calm: true });
}

function goBack() {
  const back = former;
  former = null;
  leave();
  update({ ...back, shown: back.rounds.at(-1).number, problem: null });
}

function end(left) {
  if (!left) return;
  api.leave(left.dialogue.id); // another tab may show it
  left.picture.image.close();
}

/** The same picture, a new dialogue. */
export function reopen() {
  const { file, name, followups } = state.picture;
  open(file, name, { question: byId("question").value, followups, again: true });
}

/** The examples that the server offers. */
export async function loadExamples() {
  const examples = await api.examples();
  byId("examples-part").hidden = !examples.length;
  byId("examples").replaceChildren(...examples.map(card));
}

/** An example; its picture is fetched once the card is in sight. */
function card({ name, question, followups, image }) {
  let blob = null;
  const again = (error) => {
    blob = null;
    throw error;
  };
  const fetched = () => (blob ??= api.fetchBlob(image).catch(again));
  const small = make("img", { alt: "" });
  const onclick = () => fetched().then((file) => open(file, name, { question, followups }), fail);
  const label = make("span", {}, question || name);
  const button = make("button", { type: "button", class: "example", onclick }, small, label);
  const sight = new IntersectionObserver(([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    sight.disconnect();
    fetched().then((file) => (small.src = URL.createObjectURL(file)), fail);
  });
  sight.observe(button);
  return make("li", {}, button);
}

function openFirst(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) open(file, file.name || "picture");
}

onExpired(reopen);
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  openFirst(event.target.files);
  event.target.value = ""; // the same file can be chosen again
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return; // text goes where the cursor is
  event.preventDefault();
  openFirst(files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFirst(event.dataTransfer.files);
});
addEventListener("pagehide", (event) => {
  if (!event.persisted && former) api.leave(former.dialogue.id);
  if (state.dialogue) api.leave(state.dialogue.id); // not forgotten: the page may be loaded again
});
addEventListener("pageshow", (event) => {
  if (event.persisted && state.dialogue) takeAll(); // back again; it has its place again too
});
