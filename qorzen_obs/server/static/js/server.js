// Asks the service. The token lives in this module's memory and nowhere else.

const ANSWER_MS = 5000;

let token = null;
let wanted = false; // the service has asked for a token
let wrong = false; // and did not accept the one that it got
const listeners = new Set();

export class Problem extends Error {
  constructor(message, { status = null, unreachable = false } = {}) {
    super(message);
    this.status = status;
    this.unreachable = unreachable;
  }
}

export function access() {
  return { wanted, wrong };
}

// Tells when the service asks for a token, and when it is given.
export function onAccess(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function signIn(text) {
  token = text;
  setAccess(false, false);
}

// Returns the JSON of a GET. An answer with the status `failing` is one too: /health says 503 and which check it is.
export function ask(path, { signal = null, failing = null } = {}) {
  return answer(path, {}, signal, failing);
}

export function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return answer(path, { method: "POST", headers, body: JSON.stringify(body) }, null, null);
}

// The bare response, for what is not one document of JSON. Throws a Problem where there is none, or an error.
export async function request(path, { headers = {}, ...options } = {}) {
  const shown = token;
  let response;
  try {
    const authorization = shown === null ? {} : { Authorization: `Bearer ${shown}` };
    response = await fetch(path, { cache: "no-store", ...options, headers: { ...headers, ...authorization } });
  } catch (error) {
    if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw error;
    throw new Problem("The service does not answer.", { unreachable: true });
  }
  if (response.status === 401) {
    if (shown === token) { // else another has been given meanwhile, or this one was refused before
      token = null;
      setAccess(true, wrong || shown !== null); // `wrong` until another is given
    }
    throw new Problem("The service requires a token.", { status: 401 });
  }
  return response;
}

async function answer(path, options, signal, failing) {
  const timeout = AbortSignal.timeout(ANSWER_MS);
  const response = await request(path, { ...options, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  let body;
  try {
    body = await response.json(); // problems are JSON too
  } catch {
    throw new Problem(`The service's answer is not JSON (HTTP ${response.status}).`, { status: response.status });
  }
  if (!response.ok && response.status !== failing) {
    throw new Problem(body.detail ?? `HTTP ${response.status}`, { status: response.status });
  }
  return body;
}

function setAccess(isWanted, isWrong) {
  wanted = isWanted;
  wrong = isWrong;
  listeners.forEach((listener) => listener());
}
