// The service's events, by fetch and not by EventSource, which cannot send a token. Comes back by itself, and goes on
// after the last event that it has seen.

import { access, onAccess, request } from "./server.js";

const PAUSES_MS = [500, 1000, 2000, 5000];
const SILENCE_MS = 35_000; // the service says something every 15 s

// Takes text as it arrives, gives the events that are complete: { id, event, data }.
export function parser() {
  let rest = "";
  return (text) => {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    return blocks.map(eventOf).filter((event) => event.event !== null || event.id !== null);
  };
}

function eventOf(block) {
  const found = { id: null, event: null, data: null };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    const field = line.slice(0, colon);
    if (field === "id" || field === "event") found[field] = line.slice(colon + 2);
    else if (field === "data") found.data = JSON.parse(line.slice(colon + 2));
  }
  return found;
}

// Calls `onEvents(events)` with all that came together, and `onState("live" | "stale")`; for as long as the page lives.
export async function follow(onEvents, onState) {
  let last = null;
  for (let failures = 0; ; failures += 1) {
    try {
      last = await once(last, onEvents, () => {
        failures = 0;
        onState("live");
      }, (id) => { last = id; });
    } catch (error) {
      if (!error.unreachable && error.status === null) console.error(error);
    }
    if (access().wanted) await signedIn();
    onState("stale");
    await pause(PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)]);
  }
}

async function once(last, onEvents, onOpen, onId) {
  const stop = new AbortController();
  let silence = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
    const response = await request("api/events", { headers, signal: stop.signal });
    if (!response.ok) return last;
    const parse = parser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    onOpen();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return last;
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE_MS);
      const events = parse(value);
      for (const { id } of events) {
        if (id !== null) onId((last = id));
      }
      if (events.length) onEvents(events.filter((event) => event.event !== null));
    }
  } catch (error) {
    if (stop.signal.aborted || error instanceof TypeError) return last; // silent, or cut off in the middle
    throw error;
  } finally {
    clearTimeout(silence);
  }
}

function signedIn() {
  return new Promise((resolve) => {
    const leave = onAccess(() => {
      if (access().wanted) return;
      leave();
      resolve();
    });
  });
}

// Waits, but not while the reader looks at the page again after having been away.
function pause(milliseconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    document.addEventListener("visibilitychange", done);
  });
}
