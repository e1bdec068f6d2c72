// The trace of a task: that of its last attempt, and those of the attempts before it which have their own.

import { html, useEffect, useState } from "../../vendor/preact.js";
import { href } from "../router.js";
import { ask } from "../server.js";
import { usePolled } from "../store.js";
import { Waterfall } from "./waterfall.js";

const MAX_TRACES = 10; // the last ones

export function TaskTrace({ ids, task, isOver }) {
  const { spans, keptIds } = useSpans(ids.slice(-MAX_TRACES), isOver ? 0 : 3, task.status);
  const whole = keptIds?.includes(task.trace_id);
  return html`<section class="card" id="trace"><header><h2>Trace</h2>
    ${whole ? html`<a class="small" href=${href("traces", task.trace_id)}>The whole trace</a>` : null}</header>
    ${keptIds === null ? html`<p class="quiet">Reading…</p>`
      : spans ? html`<${Waterfall} document=${spans} />`
        : html`<p class="quiet">${isOver
          ? "Its trace was not kept: it went as usual, and only so many of those are. Failed and slow ones always are."
          : "Nothing of it has ended yet."}</p>`}
  </section>`;
}

// The kept spans of these traces as one document; asked for anew only where there are more of them.
function useSpans(ids, seconds, status) {
  const { document: list, reload } = usePolled(ids.length ? `api/traces?trace_id=${ids.join()}` : null, seconds);
  const [spans, setSpans] = useState(null);
  const kept = list?.items.map((one) => `${one.trace_id} ${one.spans}`).sort().join() ?? null;
  useEffect(() => { if (list) reload(); }, [status]);
  useEffect(() => {
    if (!list?.items.length) return undefined;
    const stop = new AbortController();
    // One may have been forgotten since it was listed.
    const read = (one) => ask(`api/traces/${one.trace_id}`, { signal: stop.signal }).catch(() => ({ resourceSpans: [] }));
    Promise.all(list.items.map(read)).then((found) => {
      const all = found.flatMap((one) => one.resourceSpans);
      if (!stop.signal.aborted && all.length) setSpans({ resourceSpans: all });
    });
    return () => stop.abort();
  }, [kept]);
  return { spans, keptIds: ids.length ? list?.items.map((one) => one.trace_id) ?? null : [] };
}
