/** The server's routes. Whatever goes wrong becomes a Problem with a code and one line. */

const ROOT = new URL("../", document.baseURI);
const KEPT = "segzero.token";

export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send this token from now on, until the tab is closed. */
export function keepToken(token) {
  sessionStorage.setItem(KEPT, token);
}

export const models = () => json("GET", "v1/models");
export const examples = () => json("GET", "v1/examples");
export const ready = () => json("GET", "readyz");
export const look = (id) => json("GET", at(id));
export const image = (id) => send("GET", at(id, "image")).then(bytesOf);
export const undo = (id) => json("POST", at(id, "undo"), {});
export const clear = (id) => json("POST", at(id, "clear"), {});
export const candidates = (id, prompt, signal) => json("POST", at(id, "candidates"), prompt, signal);
export const refine = (id, prompt) => json("POST", at(id, "refine"), prompt);
export const draw = (id, prompt) => json("POST", at(id, "draw"), prompt);
export const flag = (id, said) => json("POST", at(id, "flag"), said);

/** Begin a dialogue about a picture; `wanted` may name a policy, a segmenter and a memory. */
export function begin(file, wanted) {
  const form = new FormData();
  form.append("image", file, "image");
  for (const [name, value] of Object.entries(wanted)) if (value) form.append(name, value);
  return json("POST", "v1/dialogues", form);
}

/** Forget a dialogue; sent even while the page is being left. */
export function forget(id) {
  send("DELETE", at(id), undefined, { keepalive: true }).catch(() => {}); // it would expire anyway
}

/** Say that the page is being left; the dialogue can be come back to. */
export function leave(id) {
  send("POST", at(id, "leave"), {}, { keepalive: true }).catch(() => {});
}

/** Ask; `onText` is called with the text written so far. Gives the new round. */
export async function ask(id, question, onText, signal) {
  const headers = { Accept: "text/event-stream" };
  const response = await send("POST", at(id, "ask"), { question }, { headers, signal });
  let text = "";
  try {
    for await (const { event, data } of events(response)) {
      if (event === "text") onText((text += data.text));
      else if (event === "round") return data;
      else if (event === "error") throw new Problem(data.status, data.error.code, data.error.message);
    }
  } catch (error) {
    throw error instanceof Problem ? error : unreachable(error);
  }
  throw unreachable();
}

/** A file that the server writes: {blob, name}. */
export async function download(id, format, round) {
  const response = await send("GET", `${at(id, "export")}?format=${format}${round ? `&round=${round}` : ""}`);
  const name = /filename="?([^";]+)"?/.exec(response.headers.get("content-disposition") ?? "")?.[1];
  return { blob: await bytesOf(response), name: name ?? `dialogue.${format}` };
}

/** The bytes behind an address that the server named. */
export async function fetchBlob(address) {
  const url = new URL(address.replace(/^\//, ""), ROOT); // relative, for a proxy that adds a prefix
  if (url.origin !== ROOT.origin) throw new Problem(0, "elsewhere", "the server named a picture on another server");
  return bytesOf(await send("GET", url));
}

const at = (id, step) => `v1/dialogues/${encodeURIComponent(id)}${step ? `/${step}` : ""}`;

async function json(method, path, body, signal) {
  const response = await send(method, path, body, { signal });
  const text = await response.text().catch(breakOff);
  return text ? JSON.parse(text) : null;
}

const bytesOf = (response) => response.blob().catch(breakOff);

/** An answer that ended in the middle. */
function breakOff(error) {
  throw unreachable(error);
}

async function send(method, path, body, { headers = {}, signal, keepalive } = {}) {
  const token = sessionStorage.getItem(KEPT);
  const all = { ...headers, ...(token && { Authorization: `Bearer ${token}` }) };
  if (body !== undefined && !(body instanceof FormData)) {
    all["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, headers: all, body, signal, keepalive });
  } catch (error) {
    throw unreachable(error);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `the server answered ${response.status}`;
  throw new Problem(response.status, told?.error?.code ?? "unknown", message);
}

function unreachable(error) {
  if (error?.name === "AbortError") return new Problem(0, "stopped", "stopped");
  return new Problem(0, "gone", "the server does not answer");
}

/** Server-sent events, their data read as JSON; a plain JSON answer is one event "round". */
async function* events(response) {
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    yield { event: "round", data: await response.json() };
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split(/\r?\n\r?\n/);
    waiting = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data")) yield { event: field("event"), data: JSON.parse(field("data")) };
    }
  }
}
