/** HTTP client of the server's routes. Each failure is thrown as an ApiError with a code and a one-line message. */

const ROOT = new URL("../", document.baseURI);
const TOKEN_KEY = "segzero.token";

class ApiError extends Error {
  /** `status` is 0 where no response came; the code is then "unreachable", "aborted" or "foreign_address". */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send this token with every later request, until the tab is closed. */
export function saveToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

export const listModels = () => requestJson("GET", "v1/models");
export const listExamples = () => requestJson("GET", "v1/examples");
export const getDialogue = (id) => requestJson("GET", dialoguePath(id));
export const getImage = (id) => request("GET", dialoguePath(id, "image")).then(readBlob);
export const undo = (id) => requestJson("POST", dialoguePath(id, "undo"), {});
export const clear = (id) => requestJson("POST", dialoguePath(id, "clear"), {});
export const candidates = (id, prompt, signal) => requestJson("POST", dialoguePath(id, "candidates"), prompt, signal);
export const refine = (id, prompt) => requestJson("POST", dialoguePath(id, "refine"), prompt);
export const draw = (id, prompt) => requestJson("POST", dialoguePath(id, "draw"), prompt);
export const sendFeedback = (id, feedback) => requestJson("POST", dialoguePath(id, "flag"), feedback);

export const annotationProgress = () => requestJson("GET", "v1/annotation");
export const nextAnnotation = (after) => requestJson("POST", "v1/annotation/next", { after });
export const getAnnotation = (id) => requestJson("GET", annotationPath(id));
export const annotationFile = (id) => request("GET", annotationPath(id, "file")).then(readBlob);
export const annotationCandidates = (id, prompt, signal) =>
  requestJson("POST", annotationPath(id, "candidates"), prompt, signal);
export const saveAnnotation = (id, body) => requestJson("POST", annotationPath(id, "save"), body);

/** Give an image back to the annotation project, even while the page is being closed. */
export function leaveAnnotation(id) {
  request("POST", annotationPath(id, "leave"), {}, { keepalive: true }).catch(() => {});
}

/** Create a dialogue about an image file; `models` may name a policy, a segmenter and a memory. */
export function createDialogue(file, models) {
  const form = new FormData();
  form.append("image", file, "image");
  for (const [kind, name] of Object.entries(models)) if (name) form.append(kind, name);
  return requestJson("POST", "v1/dialogues", form);
}

/** Find all masks of an image file, best first; the settings are named as in POST /v1/everything. */
export function findEverything(file, settings, segmenter, signal) {
  const form = new FormData();
  form.append("image", file, "image");
  form.append("settings", JSON.stringify(settings));
  if (segmenter) form.append("segmenter", segmenter);
  return requestJson("POST", "v1/everything", form, signal);
}

/** Find all instances of phrases in an image file; thresholds are {box, text}, models {policy, segmenter}. */
export function findWords(file, phrases, thresholds, models, signal) {
  const form = imageForm(file, models);
  form.append("phrases", JSON.stringify(phrases));
  form.append("box_threshold", thresholds.box);
  form.append("text_threshold", thresholds.text);
  return requestJson("POST", "v1/words", form, signal);
}

/** Run a program on an image file, or let the server write one for a question: `given` is {program} or {question}. */
export function runProgram(file, given, models, signal) {
  const form = imageForm(file, models);
  for (const [name, value] of Object.entries(given)) form.append(name, value);
  return requestJson("POST", "v1/programs", form, signal);
}

/** Send a verdict on the masks of a phrase. */
export function flagWords(file, fields, models) {
  const form = imageForm(file, models);
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return requestJson("POST", "v1/words/flag", form);
}

function imageForm(file, names) {
  const form = new FormData();
  form.append("image", file, "image");
  for (const [kind, name] of Object.entries(names)) if (name) form.append(kind, name);
  return form;
}

/** Delete a dialogue. The request is sent even while the page is being closed; if it fails, the dialogue expires. */
export function deleteDialogue(id) {
  request("DELETE", dialoguePath(id), undefined, { keepalive: true }).catch(() => {});
}

/** Tell the server that the page is being closed. The dialogue can still be reopened. */
export function leaveDialogue(id) {
  request("POST", dialoguePath(id, "leave"), {}, { keepalive: true }).catch(() => {});
}

/** Ask a question and return the new round. `onText` is called with the text generated so far. */
export async function ask(id, question, onText, signal) {
  const headers = { Accept: "text/event-stream" };
  const response = await request("POST", dialoguePath(id, "ask"), { question }, { headers, signal });
  let text = "";
  try {
    for await (const { event, data } of readEvents(response)) {
      if (event === "text") onText((text += data.text));
      else if (event === "round") return data;
      else if (event === "error") throw new ApiError(data.status, data.error.code, data.error.message);
    }
  } catch (error) {
    throw error instanceof ApiError ? error : connectionError(error);
  }
  throw connectionError(); // the stream ended before the round came
}

/** Fetch an export of the dialogue: {blob, name}. */
export async function exportDialogue(id, format, round) {
  const query = `format=${format}${round ? `&round=${round}` : ""}`;
  const response = await request("GET", `${dialoguePath(id, "export")}?${query}`);
  const name = /filename="?([^";]+)"?/.exec(response.headers.get("content-disposition") ?? "")?.[1];
  return { blob: await readBlob(response), name: name ?? `dialogue.${format}` };
}

/** Fetch the bytes behind an address that came from the server. */
export async function fetchBlob(address) {
  const url = new URL(address.replace(/^\//, ""), ROOT); // relative, for a proxy that adds a prefix
  if (url.origin !== ROOT.origin) {
    throw new ApiError(0, "foreign_address", "the server named a picture on another server");
  }
  return readBlob(await request("GET", url));
}

const annotationPath = (id, step) => `v1/annotation/images/${encodeURIComponent(id)}${step ? `/${step}` : ""}`;
const dialoguePath = (id, step) => `v1/dialogues/${encodeURIComponent(id)}${step ? `/${step}` : ""}`;

async function requestJson(method, path, body, signal) {
  const response = await request(method, path, body, { signal });
  const text = await response.text().catch(throwConnectionError);
  return text ? JSON.parse(text) : null;
}

async function request(method, path, body, { headers = {}, signal, keepalive } = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const allHeaders = { ...headers, ...(token && { Authorization: `Bearer ${token}` }) };
  if (body !== undefined && !(body instanceof FormData)) {
    allHeaders["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, headers: allHeaders, body, signal, keepalive });
  } catch (error) {
    throw connectionError(error);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const message = answer?.error?.message ?? `the server answered ${response.status}`;
  throw new ApiError(response.status, answer?.error?.code ?? "unknown", message);
}

const readBlob = (response) => response.blob().catch(throwConnectionError);

function throwConnectionError(error) {
  throw connectionError(error);
}

/** Return the ApiError of a request without a complete response: aborted by the page, or the connection failed. */
function connectionError(error) {
  if (error?.name === "AbortError") return new ApiError(0, "aborted", "stopped");
  return new ApiError(0, "unreachable", "the server does not answer");
}

/** Yield server-sent events with their data parsed as JSON. A plain JSON response is yielded as one "round" event. */
async function* readEvents(response) {
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    yield { event: "round", data: await response.json() };
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let incomplete = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (incomplete + value).split(/\r?\n\r?\n/);
    incomplete = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data")) yield { event: field("event"), data: JSON.parse(field("data")) };
    }
  }
}
