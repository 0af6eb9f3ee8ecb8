// The server's API: requests with the token, problem documents as errors, and server-sent events.

const KEY = "florence-edge-token";

/** An answer that is no answer: `problem` is the document of the server. */
export class Refused extends Error {
  constructor(problem, retryAfter) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

/** Takes the token from an address that ends in #token=..., and out of the address again. */
export function tokenFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    setToken(found);
    history.replaceState(null, "", location.pathname);
  }
}

export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

/** A response of the server; raises `Refused` for anything but success. */
export async function request(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ status: response.status, title: response.statusText }));
  throw new Refused(problem, Number(response.headers.get("retry-after")) || null);
}

/** The events of a response, as `[name, data]`. */
export async function* events(response) {
  let waiting = "";
  for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    waiting += part;
    let end;
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const lines = waiting.slice(0, end).split("\n");
      waiting = waiting.slice(end + 2);
      const field = (name) => lines.find((line) => line.startsWith(name))?.slice(name.length);
      const name = field("event: ");
      if (name) yield [name, JSON.parse(field("data: "))];
    }
  }
}

// Safari cannot iterate over a stream.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A picture in base64 as a blob. */
export function jpeg(text) {
  return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))], { type: "image/jpeg" });
}
