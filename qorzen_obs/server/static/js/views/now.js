// This very moment: how much of what, what runs and what that waits for, what is pending, and who holds the loop.

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { Queues } from "../parts/queues.js";
import { SeriesCharts } from "../parts/series-charts.js";
import { Moment } from "../parts/moment.js";
import { Status } from "../parts/status.js";
import { href } from "../router.js";
import { store, STATUSES, useNow, usePolled, useStore } from "../store.js";
import { count, duration, errorOf, percent, progressOf, rate } from "../words.js";

const ORDER = ["running", "pending", "completed", "failed", "cancelled"];
const RUNNING_SHOWN = 100;
const ENDED_SHOWN = 25;
const SLOW = 2; // times the usual
const BLOCKS_SHOWN_MS = 15 * 60_000;
const PRIORITIES = ["critical", "high", "normal", "low"];

export function Now() {
  return html`
    <h1 class="sr-only">Now</h1>
    <${Culprit} />
    <${Tiles} />
    <div class="grid">
      <${Pending} />
      <${Slots} />
      <${Queues} />
    </div>
    <${SeriesCharts} />
    <${Running} />
    <${Ended} />
  `;
}

// Who holds the work loop right now; nothing while it turns.
function Culprit() {
  const { document: loop } = usePolled("api/loop", 1);
  if (loop === null) return null;
  if (loop.state !== "blocked") return html`<${Blocks} recent=${loop.recent} />`;
  const { culprit } = loop;
  return html`<div class="culprit" id="culprit" role="alert">
    <strong>The work loop is blocked</strong> for ${duration(loop.culprit_seconds ?? loop.blocked_seconds)}
    ${loop.cause === "not_running" ? "; the process did not get to run."
      : culprit === null ? "; who holds it is not known yet." : html` by ${nameOf(culprit)}.`}
    ${placesOf(culprit).map((place) => html`<code>${place}</code>`)}
  </div>`;
}

// Who held it before.
function Blocks({ recent }) {
  const now = useNow(1);
  if (!recent.length || now - Date.parse(recent[0].at) > BLOCKS_SHOWN_MS) return null;
  const longest = recent.reduce((most, one) => Math.max(most, one.seconds), 0);
  return html`<details class="blocks" id="blocks"><summary>The work loop was blocked ${recent.length === 1
    ? "once" : `${recent.length} times`} lately, for ${duration(longest)} at most; the last time <${Moment} at=${recent[0].at} now=${now} /></summary>
    <ol>${recent.map(({ at, seconds, culprit }) => html`<li key=${at}><${Moment} at=${at} /> <strong>${duration(seconds)}</strong> ${culprit === null
      ? "the process did not get to run"
      : html`${nameOf(culprit)} ${placesOf(culprit).map((place) => html`<code>${place}</code> `)}`}</li>`)}</ol></details>`;
}

function nameOf({ name, task_id, task_name }) {
  return task_id === null ? name : html`<a href=${href("tasks", task_id)}>${task_name}</a>`;
}

// The line of its own code that holds the loop, and the one that this has led to.
function placesOf(culprit) {
  const frames = culprit?.frames ?? [];
  const own = frames.filter((frame) => frame.file === frames[0].file).at(-1);
  return [...new Set([own, frames.at(-1)])].filter(Boolean).map(placeOf);
}

function placeOf(frame) {
  return frame ? `${frame.file}:${frame.line} in ${frame.function}${frame.code ? `: ${frame.code}` : ""}` : "";
}

function Tiles() {
  const counts = useStore((state) => state.counts);
  const rates = useRates(counts);
  if (counts === null) return html`<div class="tiles" aria-hidden="true">${ORDER.map((one) => html`
    <div class="tile ${one}"><span class="label">${one}</span><strong>–</strong></div>`)}</div>`;
  return html`<section class="tiles" aria-label="Tasks by status">
    ${ORDER.map((status) => html`
      <a key=${status} class="tile ${status} ${counts.by_status[status] ? "some" : ""}" href=${href("tasks", null, { status })}>
        <span class="label">${status}</span>
        <strong>${count(counts.by_status[status])}</strong>
        <span class="rate">${rates[status] ? `+${rate(rates[status])}` : ""}</span>
      </a>`)}
  </section>`;
}

// Ends a second by status, over the last few seconds.
function useRates(counts) {
  const seen = useRef([]);
  const [rates, setRates] = useState({});
  useEffect(() => {
    const timer = setInterval(() => {
      const now = performance.now();
      const current = store.state.counts?.by_status;
      if (!current) return;
      seen.current = [...seen.current.filter((one) => now - one.at < 5500), { at: now, by: current }];
      const [first] = seen.current;
      if (now === first.at) return;
      const of = (status) => Math.max(0, (current[status] - first.by[status]) / ((now - first.at) / 1000));
      setRates(Object.fromEntries(STATUSES.slice(2).map((status) => [status, of(status)])));
    }, 1000);
    return () => clearInterval(timer);
  }, []);
  return counts === null ? {} : rates;
}

function Pending() {
  const { document: pending } = usePolled("api/pending", 1);
  return html`<section class="card" aria-labelledby="pending-title">
    <header><h2 id="pending-title">Pending by priority</h2></header>
    <table class="list" id="pending">
      <thead><tr><th scope="col">Priority</th><th scope="col" class="number">Wait</th>
        <th scope="col" class="number">For later</th><th scope="col" class="number">Oldest waits</th></tr></thead>
      <tbody>${PRIORITIES.map((priority) => {
        const one = pending?.by_priority[priority];
        const age = one?.oldest_age_seconds ?? null;
        return html`<tr key=${priority}>
          <td><a href=${href("tasks", null, { status: "pending", priority })}>${priority}</a></td>
          <td class="number">${count(one?.pending)}</td>
          <td class="number">${count(one?.scheduled)}</td>
          <td class="number">${age === null ? "–" : html`<a href=${href("tasks", one.oldest_task_id)}>${duration(age)}</a>`}</td>
        </tr>`;
      })}</tbody>
    </table>
  </section>`;
}

function Slots() {
  const { document: status } = usePolled("status", 2);
  if (status === null) return html`<section class="card"><header><h2>Slots by engine</h2></header></section>`;
  const { queue, slots } = status;
  const used = queue.depth + queue.scheduled;
  return html`<section class="card" aria-labelledby="slots-title">
    <header><h2 id="slots-title">Slots by engine</h2></header>
    <ul class="slots" id="slots">
      ${Object.entries(slots).map(([engine, use]) => html`<${Use} key=${engine} name=${engine} ...${use} />`)}
      <${Use} name="queue" busy=${used} limit=${queue.limit} />
    </ul>
  </section>`;
}

function Use({ name, busy, limit, lent = 0, abandoned = 0 }) {
  const more = [lent && `${lent} lent`, abandoned && `${abandoned} abandoned`].filter(Boolean);
  return html`<li>
    <span>${name}</span>
    <progress class=${busy >= limit ? "full" : ""} max=${Math.max(limit, 1)} value=${busy} aria-label=${`${name}: in use`}></progress>
    <span class=${abandoned ? "error-text" : "quiet"}>${[`${count(busy)} / ${count(limit)}`, ...more].join(", ")}</span>
  </li>`;
}

function Running() {
  const total = useStore((state) => state.counts?.by_status.running ?? 0);
  const running = useStore((state) => state.running);
  useStore((state) => state.version);
  const { document: doing } = usePolled(`api/running?limit=${RUNNING_SHOWN}`, 1);
  const now = useNow(1);
  const known = new Map(doing?.items.map((one) => [one.task_id, one]));
  const shown = [...running.values()]
    .sort((a, b) => (a.started_at < b.started_at ? -1 : 1)).slice(0, RUNNING_SHOWN);
  // The stream begins with the newest of them alone: those that run for longest are asked for.
  // One that has just begun is told of by the stream before it is missed a second time.
  const missed = useRef(new Set());
  useEffect(() => {
    const unknown = doing?.items.map((one) => one.task_id).filter((id) => !store.state.tasks.has(id)) ?? [];
    const again = unknown.some((id) => missed.current.has(id));
    missed.current = new Set(unknown);
    if (again) store.learn("api/tasks?status=running&limit=1000").catch((error) => error.unreachable || console.warn(error.message));
  }, [doing]);
  return html`<section class="card" aria-labelledby="running-title">
    <header><h2 id="running-title">Running <span class="badge">${count(total)}</span></h2>
      ${total > shown.length ? html`<a class="small" href=${href("tasks", null, { status: "running" })}>see all</a>` : null}</header>
    ${shown.length === 0 ? html`<p class="empty">Nothing is running.</p>` : html`<table class="list running-list" id="running">
      <colgroup><col /><col class="word wide" /><col class="word wide" /><col class="progress" /><col class="number" />
        <col class="number wide" /><col class="awaits wide" /></colgroup>
      <thead><tr><th scope="col">Task</th><th scope="col" class="wide">Category</th><th scope="col" class="wide">Engine</th>
        <th scope="col">Progress</th><th scope="col" class="number">Elapsed</th><th scope="col" class="number wide">Busy</th>
        <th scope="col" class="wide">Awaits</th></tr></thead>
      <tbody>${shown.map((task) => html`<${RunningRow} key=${task.task_id} task=${task} doing=${known.get(task.task_id)} now=${now} />`)}</tbody>
    </table>`}
  </section>`;
}

function RunningRow({ task, doing, now }) {
  const elapsed = Math.max(0, (now - Date.parse(task.started_at)) / 1000);
  const usual = doing?.usual_seconds ?? null;
  const slow = usual !== null && elapsed > SLOW * usual && elapsed > 1;
  const awaited = doing?.waiting_for;
  return html`<tr>
    <td title=${task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a></td>
    <td class="wide">${task.category} · ${task.priority}</td>
    <td class="wide">${task.engine}</td>
    <td>${task.progress.updated_at === null ? html`<span class="quiet">–</span>` : html`
      <progress max="100" value=${task.progress.percent} aria-label="Progress"></progress>
      <span class="message" title=${task.progress.message}>${progressOf(task)}</span>`}</td>
    <td class="number ${slow ? "slow" : ""}">${duration(elapsed)}${usual === null ? null
      : html`<span class="usual" title="the median of its last runs">of ${duration(usual)}</span>`}</td>
    <td class="number wide">${percent(doing?.busy_share)}</td>
    <td class="wide" title=${doing?.awaiting ?? null}>${awaited
      ? html`<a href=${href("tasks", awaited)}>another task</a>`
      : html`<span class="quiet">${doing?.awaiting ?? (doing?.pid ? `process ${doing.pid}` : "")}</span>`}</td>
  </tr>`;
}

function Ended() {
  useStore((state) => state.version);
  const { tasks, ended } = store.state;
  const shown = ended.slice(-ENDED_SHOWN).reverse().map((id) => tasks.get(id)).filter(Boolean);
  return html`<section class="card" aria-labelledby="ended-title">
    <header><h2 id="ended-title">Recently ended</h2></header>
    ${shown.length === 0 ? html`<p class="empty">No task has ended yet.</p>` : html`<table class="list ended-list" id="ended">
      <colgroup><col class="status" /><col /><col class="error wide" /><col class="number" /><col class="number wide" /></colgroup>
      <thead><tr><th scope="col">Status</th><th scope="col">Task</th><th scope="col" class="wide">Error</th>
        <th scope="col" class="number">Took</th><th scope="col" class="number wide">Ended</th></tr></thead>
      <tbody>${shown.map((task) => html`<tr key=${task.task_id}>
        <td><${Status} status=${task.status} /></td>
        <td title=${task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a></td>
        <td class="wide error-text" title=${task.error}>${errorOf(task)}</td>
        <td class="number">${duration(task.duration_seconds)}</td>
        <td class="number wide"><${Moment} at=${task.completed_at} /></td>
      </tr>`)}</tbody>
    </table>`}
  </section>`;
}
