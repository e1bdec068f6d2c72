// The trace of a task: its attempts, its own code, and every task below it. The rest of the trace is behind a link.

import { html, useEffect, useMemo } from "../../vendor/preact.js";
import { href } from "../router.js";
import { usePolled } from "../store.js";
import { Waterfall } from "./waterfall.js";

const MAX_TRACES = 10; // the last ones

export function TaskTrace({ ids, path, task, isOver }) {
  // A line says whether there are more spans: they themselves may be a megabyte.
  const listed = ids.length ? `api/traces?trace_id=${ids.slice(-MAX_TRACES).join()}` : null;
  const { document: list } = usePolled(listed, isOver ? 0 : 3);
  const ended = list?.items.map((one) => one.spans).join() ?? null;
  const isThere = Boolean(ended || (task.trace_id && isOver && !task.evicted));
  const { document: spans, problem, reload } = usePolled(isThere ? `${path}/trace` : null, 0);
  useEffect(() => { if (spans || problem) reload(); }, [task.status, task.attempt, ended]);
  const known = useMemo(() => marks(spans), [spans]);
  return html`<section class="card" id="trace"><header><h2>Trace</h2>
    ${known.some((isPart) => !isPart) ? html`<a class="small" href=${href("traces", task.trace_id)}>The whole trace</a>` : null}</header>
    ${known.some(Boolean) ? html`<p class="quiet small">Some spans were not kept. Those of tasks were made again from their records.</p>` : null}
    ${spans ? html`<${Waterfall} document=${spans} />`
      : html`<p class="quiet">${problem?.message ?? (isThere || (listed && !list) ? "Reading…" : nothing(task))}</p>`}
  </section>`;
}

function nothing(task) {
  if (!task.completed_at) return "Too early: no span of it has ended yet.";
  if (task.evicted) return "Too late: its spans are not kept any more.";
  return task.started_at ? "It has no trace: spans are switched off." : "It has no trace: it ended before it started.";
}

// For each span whether it is marked as a part of a trace that is not whole.
function marks(spans) {
  return (spans?.resourceSpans ?? []).flatMap((one) => one.scopeSpans).flatMap((one) => one.spans)
    .map((span) => (span.attributes ?? []).some(({ key }) => key === "qorzen.trace.partial"));
}
