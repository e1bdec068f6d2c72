// One task: what it is, where its time went, and what can be done about it.

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { Attempts, attempts, traceIds } from "../parts/attempts.js";
import { Copy } from "../parts/copy.js";
import { Family } from "../parts/family.js";
import { Ledger } from "../parts/ledger.js";
import { LogLines } from "../parts/log-lines.js";
import { Moment } from "../parts/moment.js";
import { Stack } from "../parts/stack.js";
import { Status } from "../parts/status.js";
import { TaskTrace } from "../parts/task-trace.js";
import { go, href } from "../router.js";
import { post } from "../server.js";
import { store, useNow, usePolled, useStore } from "../store.js";
import { duration, errorOf, progressOf } from "../words.js";

const FINAL = new Set(["completed", "failed", "cancelled"]);

export function Task({ route }) {
  const path = `api/tasks/${encodeURIComponent(route.id)}`;
  const newest = useStore((state) => state.tasks.get(route.id) ?? null);
  const [isOver, setOver] = useState(false); // nothing more to ask for
  const details = usePolled(path, isOver ? 0 : 2);
  const page = usePolled("api/page", 0).document;
  const logs = usePolled(`${path}/logs`, isOver ? 0 : 1);
  useEffect(() => {
    if (!newest) return;
    details.reload();
    logs.reload();
  }, [newest?.status, newest?.attempt]);
  const read = details.document;
  const codeRuns = read?.status === "running" || Boolean(read?.abandoned && !read.code_ended_at);
  useEffect(() => setOver(FINAL.has(read?.status) && !codeRuns), [read?.status, codeRuns]);
  if (!read) {
    const words = details.problem?.status === 404 ? "No live, kept or stored task has this id." : details.problem?.message;
    return html`<section class="card"><h1>Task</h1><p role="status">${words ?? "Reading…"}</p></section>`;
  }
  const task = newest && !FINAL.has(read.status) ? { ...read, ...newest, phases: read.phases, metadata: read.metadata } : read;
  const tried = attempts(logs.document?.items ?? [], task);
  return html`
    <${Head} task=${task} path=${path} page=${page} />
    ${task.status === "pending" ? html`<${Why} path=${path} />` : null}
    ${task.error || task.traceback ? html`<section class="card" id="error"><h2>Error</h2>
      <p class="error-text preline">${errorOf(task)}</p>
      ${task.traceback ? html`<pre class="block" tabindex="0">${task.traceback}</pre>` : null}</section>` : null}
    <${Family} task=${task} mayControl=${page?.may_control} onDone=${details.reload} />
    <section class="card" id="ledger"><h2>Where its time went</h2><${Ledger} phases=${task.phases} /></section>
    ${codeRuns ? html`<${Stack} path=${`${path}/stack`} />` : null}
    <${Attempts} of=${tried} task=${task} />
    <${Logs} logs=${logs} />
    <${TaskTrace} ids=${traceIds(tried, task)} path=${path} task=${task} isOver=${isOver} />`;
}

function Head({ task, path, page }) {
  const { percent } = task.progress;
  const metadata = Object.entries(task.metadata ?? {});
  useNow(1);
  const command = `qorzen-obs show ${task.task_id} --url ${location.origin}${location.pathname.replace(/\/$/, "")}`;
  return html`<section class="card" id="task">
    <div class="task-head"><${Status} status=${task.status} /><h1>${task.name}</h1>
      <${Copy} text=${task.name} label="Copy name" /><${Copy} text=${task.task_id} label="Copy id" />
      ${page?.may_control ? html`<${Control} task=${task} path=${path} />` : null}</div>
    ${task.progress.updated_at ? html`<p>${progressOf(task)}</p>
      <progress class=${task.status} value=${percent} max="100" aria-label="Progress"></progress>` : null}
    ${task.evicted ? html`<p class="quiet" id="evicted">Too late for details: this task was evicted, and only its outline is kept.
      See <code>tasks.keep_completed_bytes</code>.</p>` : null}
    ${task.stored ? html`<p class="quiet" id="stored">This task is no longer in memory. It was read from the history on disk.</p>` : null}
    <dl class="facts">
      <dt>id</dt><dd class="mono">${task.task_id}</dd>
      <dt>kind</dt><dd>${[task.category, task.priority, task.engine, task.plugin_id].filter(Boolean).join(" · ")}${" · "}
        <a href=${href("tasks", null, { name: task.name })}>others of its name</a></dd>
      <dt>created</dt><dd><${Moment} at=${task.created_at} /></dd>
      <dt>started</dt><dd><${Moment} at=${task.started_at} /> ${task.queue_wait_seconds === null ? ""
        : `after ${duration(task.queue_wait_seconds)} in the queue`}</dd>
      <dt>ended</dt><dd><${Moment} at=${task.completed_at} /></dd>
      <dt>ran</dt><dd>${task.status === "running" ? html`${duration((store.known() - Date.parse(task.started_at)) / 1000)} so far`
        : duration(task.duration_seconds)}</dd>
      <dt>attempt</dt><dd>${task.attempt || "–"}</dd>
      ${task.rerun?.task_id ? html`<dt>run again as</dt><dd><a href=${href("tasks", task.rerun.task_id)}>${task.rerun.task_id}</a></dd>` : null}
      ${["failed", "cancelled"].includes(task.status) && task.rerun?.why_not ? html`<dt>no rerun</dt><dd>${task.rerun.why_not}</dd>` : null}
      ${task.rerun_of ? html`<dt>rerun of</dt><dd><a href=${href("tasks", task.rerun_of)}>${task.rerun_of}</a></dd>` : null}
      ${task.waiting_for ? html`<dt>waits for</dt>
        <dd><a href=${href("tasks", task.waiting_for)}>${task.waiting_for}</a></dd>` : null}
    </dl>
    ${metadata.length ? html`<h2>Metadata</h2><dl class="facts" id="metadata">${metadata.map(([key, value]) => html`<dt class="mono">${key}</dt>
      <dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd>`)}</dl>` : null}
    <p class="task-links"><code>${command}</code> <${Copy} text=${command} label="Copy command" />
      <${Outside} url=${page?.links.grafana} words="Grafana" />
      ${task.trace_id ? html`<${Outside} words="Trace backend"
        url=${page?.links.trace?.replace("{trace_id}", encodeURIComponent(task.trace_id))} />` : null}</p>
  </section>`;
}

function Outside({ url, words }) {
  if (!url || !["http:", "https:"].includes(URL.parse(url)?.protocol)) return null;
  return html`<a href=${url} target="_blank" rel="noopener noreferrer">${words} ↗</a>`;
}

function Control({ task, path }) {
  const dialog = useRef(null);
  const [said, setSaid] = useState("");
  const tell = async (does) => {
    try {
      await does();
    } catch (problem) {
      setSaid(problem.message);
    }
  };
  const cancel = () => {
    dialog.current.close();
    tell(async () => { await post(`${path}/cancel`); setSaid("It was asked to stop."); });
  };
  const rerun = () => tell(async () => {
    const { task_id: id } = await post(`${path}/rerun`);
    go(href("tasks", id));
  });
  return html`${FINAL.has(task.status)
    ? task.rerun?.possible ? html`<button type="button" class="button" onClick=${rerun}>Run again</button>` : null
    : html`<button type="button" class="button danger" disabled=${!task.cancellable}
        onClick=${() => dialog.current.showModal()}>Cancel</button>`}
    <span class="quiet small" role="status">${said}</span>
    <dialog ref=${dialog} aria-labelledby="asks"><h2 id="asks">Cancel this task?</h2>
      <p>${task.name} stops where it is. What it has done so far is not undone.</p>
      <div class="actions"><button type="button" class="button" onClick=${() => dialog.current.close()}>Keep it</button>
        <button type="button" class="button danger" onClick=${cancel}>Cancel the task</button></div></dialog>`;
}

function Why({ path }) {
  const { document: why } = usePolled(`${path}/why`, 2);
  if (!why?.pending) return null;
  return html`<section class="card" id="why"><h2>Why it is pending</h2><p>
    ${why.held_by ? `Held by ${why.held_by}.` : "About to start."}
    ${why.ahead ? ` ${why.ahead} are ahead of it.` : ""}
    ${why.eligible_in_seconds > 0 ? ` It may start in ${duration(why.eligible_in_seconds)}.` : ""}</p></section>`;
}

function Logs({ logs: { document: logs, problem } }) {
  return html`<section class="card" id="logs"><h2>Log</h2>${logs
    ? html`<${LogLines} lines=${logs.items} dropped=${logs.dropped} missing=${logs.missing} />`
    : html`<p class="quiet">${problem?.message ?? "Reading…"}</p>`}</section>`;
}
