// This very moment: what runs and what failed last, then how the last hour went, and what is pending.

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { CulpritName, placesOf, STALL_SECONDS } from "../parts/banner.js";
import { Moment } from "../parts/moment.js";
import { Queues } from "../parts/queues.js";
import { SeriesCharts, useLive } from "../parts/series-charts.js";
import { Status } from "../parts/status.js";
import { longestWaits } from "../parts/waits.js";
import { href } from "../router.js";
import { store, STATUSES, useNow, usePolled, useStore } from "../store.js";
import { count, duration, errorOf, percent, placeOf, progressOf, rate } from "../words.js";

const ORDER = ["running", "pending", "completed", "failed", "cancelled"];
const FIRST_SHOWN = 6; // rows, so that the charts are still seen below them
const FIRST_SHOWN_NARROW = 4; // so that what failed is still seen below what runs
const RUNNING_SHOWN = 100;
const LONG_COUNT = 100_000; // its tile in a narrow window needs smaller figures
const QUEUE_ALARM = 0.9; // its share from which /health is degraded
const ENDED_SHOWN = 25;
const SLOW = 2; // times the usual
const FINAL = STATUSES.slice(2);
const BLOCKS_SHOWN_MS = 15 * 60_000;
const PRIORITIES = ["critical", "high", "normal", "low"];

export function Now() {
  const live = useLive();
  return html`
    <h1 class="sr-only">Now</h1>
    <${Tiles} rates=${live.rates} />
    <div class="first">
      <${Running} />
      <${Failed} />
    </div>
    <${SeriesCharts} live=${live} />
    <div class="grid">
      <${Pending} />
      <${Slots} />
      <${Queues} />
    </div>
    <${Blocks} />
    <${Ended} />
  `;
}

// Who held the work loop before, where that was for long enough to be felt.
function Blocks() {
  const { document: loop } = usePolled("api/loop", 5);
  const now = useNow(5);
  const recent = (loop?.recent ?? []).filter(({ at, seconds }) => seconds >= STALL_SECONDS && now - Date.parse(at) < BLOCKS_SHOWN_MS);
  if (!recent.length) return null;
  const longest = recent.reduce((most, one) => Math.max(most, one.seconds), 0);
  return html`<details class="card blocks" id="blocks"><summary>The work loop was blocked ${recent.length === 1
    ? "once" : `${recent.length} times`} in the last 15 minutes, for up to ${duration(longest)}; last <${Moment} at=${recent[0].at} now=${now} /></summary>
    <ol>${recent.map(({ at, seconds, culprit }) => html`<li key=${at}><${Moment} at=${at} /> <strong>${duration(seconds)}</strong> ${culprit === null
      ? "the process did not get to run"
      : html`<${CulpritName} of=${culprit} /> ${placesOf(culprit).map((place) => html`<code>${place}</code> `)}`}</li>`)}</ol></details>`;
}

function Tiles({ rates }) {
  const counts = useStore((state) => state.counts);
  if (counts === null) return html`<div class="tiles" aria-hidden="true">${ORDER.map((one) => html`
    <div class="tile ${one}"><span class="label">${one}</span><strong>–</strong></div>`)}</div>`;
  return html`<section class="tiles" aria-label="Tasks by status">
    ${ORDER.map((status) => html`
      <a key=${status} class="tile ${status} ${counts.by_status[status] ? "some" : ""}" href=${href("tasks", null, { status })}>
        <span class="label">${status}</span>
        <strong class=${counts.by_status[status] >= LONG_COUNT ? "long" : ""}>${count(counts.by_status[status])}</strong>
        <span class="rate">${rates[status] ? `+${rate(rates[status])}` : ""}</span>
      </a>`)}
  </section>`;
}

// All counts of tasks on this view come from the stream, and so from one moment.
function Pending() {
  const counts = useStore((state) => state.counts);
  const { document: pending } = usePolled("api/pending", 1);
  useNow(1);
  const waits = longestWaits("priority", pending);
  return html`<section class="card" aria-labelledby="pending-title">
    <header><h2 id="pending-title">Pending by priority <span class="badge">${count(counts?.by_status.pending)}</span></h2></header>
    <table class="list" id="pending">
      <thead><tr><th scope="col">Priority</th><th scope="col" class="number">Pending</th>
        <th scope="col" class="number" title="of these, those that wait for their time">Scheduled</th><th scope="col" class="number" title="for how long the oldest has waited">Oldest</th></tr></thead>
      <tbody>${PRIORITIES.map((priority) => {
        const total = counts?.pending_by_priority[priority];
        const one = pending?.by_priority[priority];
        const oldest = total ? waits[priority] : null;
        return html`<tr key=${priority}>
          <td><a href=${href("tasks", null, { status: "pending", priority })}>${priority}</a></td>
          <td class="number">${count(total)}</td>
          <td class="number">${count(one && Math.min(one.scheduled, total ?? 0))}</td>
          <td class="number">${oldest ? html`<a href=${href("tasks", oldest.id)}>${duration(oldest.seconds)}</a>` : "–"}</td>
        </tr>`;
      })}</tbody>
    </table>
  </section>`;
}

function Slots() {
  const counts = useStore((state) => state.counts?.by_status);
  const running = useStore((state) => state.runningNow);
  const { document: status } = usePolled("status", 2);
  if (status === null) return html`<section class="card"><header><h2>Slots by engine</h2></header></section>`;
  const { queue, slots } = status;
  // A running task holds a slot of its engine or has lent it. Where all that run are known the stream says how many
  // they are, and so at the same moment as the other counts. How many have lent theirs is of the last answer.
  const held = running.length === counts?.running ? heldByEngine(running) : null;
  const now = (engine, use) => {
    if (held === null) return use;
    const known = held[engine] ?? 0, lent = Math.min(use.lent, known);
    return { ...use, lent, busy: known - lent };
  };
  return html`<section class="card" aria-labelledby="slots-title">
    <header><h2 id="slots-title">Slots by engine</h2></header>
    <ul class="slots" id="slots">
      ${Object.entries(slots).map(([engine, use]) => html`<${Use} key=${engine} name=${engine} ...${now(engine, use)} />`)}
      <${Use} name="queue" busy=${counts?.pending ?? 0} limit=${queue.limit} alarm=${QUEUE_ALARM} />
    </ul>
  </section>`;
}

function heldByEngine(running) {
  const held = {};
  for (const { engine } of running) held[engine] = (held[engine] ?? 0) + 1;
  return held;
}

// Full slots are at work; a queue that is almost full is about to refuse tasks.
function Use({ name, busy, limit, lent = 0, abandoned = 0, alarm = Infinity }) {
  const more = [lent && `${lent} lent`, abandoned && `${abandoned} abandoned`].filter(Boolean);
  const isOver = busy >= alarm * limit;
  return html`<li>
    <span>${name}</span>
    <progress class=${isOver ? "over" : busy >= limit ? "full" : ""} max=${Math.max(limit, 1)} value=${busy} aria-label=${`${name}: in use`}></progress>
    <span class=${abandoned || isOver ? "error-text" : "quiet"}>${[`${count(busy)} / ${count(limit)}`, ...more].join(", ")}</span>
  </li>`;
}

function Running() {
  const total = useStore((state) => state.counts?.by_status.running ?? 0);
  const running = useStore((state) => state.runningNow);
  const [isLong, setLong] = useState(false);
  const first = firstShown();
  const { document: doing } = usePolled(`api/running?limit=${RUNNING_SHOWN}`, 1);
  useNow(1);
  const now = store.known();
  const known = new Map(doing?.items.map((one) => [one.task_id, one]));
  const shown = [...running]
    .sort((a, b) => (a.started_at < b.started_at ? -1 : 1)).slice(0, isLong ? RUNNING_SHOWN : first);
  // The stream begins with the newest running tasks; those that have run for longest are asked for.
  // The stream tells of one that has just begun before it is missed a second time.
  const missed = useRef(new Set());
  useEffect(() => {
    const unknown = doing?.items.map((one) => one.task_id).filter((id) => !store.state.tasks.has(id)) ?? [];
    const again = unknown.some((id) => missed.current.has(id));
    missed.current = new Set(unknown);
    if (again) store.learn("api/tasks?status=running&limit=1000").catch((error) => error.unreachable || console.warn(error.message));
  }, [doing]);
  return html`<section class="card" aria-labelledby="running-title">
    <header><h2 id="running-title">Running <span class="badge">${count(total)}</span></h2>
      ${total ? html`<a class="small" href=${href("tasks", null, { status: "running" })}>see all</a>` : null}</header>
    ${shown.length === 0 ? html`<p class="empty">Nothing is running.</p>` : html`<table class="list running-list" id="running">
      <colgroup><col /><col class="progress" /><col class="number" /><col class="number extra" /></colgroup>
      <thead><tr><th scope="col">Task</th><th scope="col">Progress</th><th scope="col" class="number">Elapsed</th>
        <th scope="col" class="number extra" title="the share of its time on the loop or on a processor">Busy</th></tr></thead>
      <tbody>${shown.map((task) => html`<${RunningRow} key=${task.task_id} task=${task} doing=${known.get(task.task_id)} now=${now} />`)}</tbody>
    </table>`}
    ${running.length > first ? html`<p class="more"><button type="button" class="button small" aria-expanded=${isLong}
      onClick=${() => setLong(!isLong)}>${isLong ? "Show fewer" : `Show ${count(Math.min(running.length, RUNNING_SHOWN) - first)} more`}</button></p>` : null}
  </section>`;
}

function RunningRow({ task, doing, now }) {
  const elapsed = Math.max(0, (now - Date.parse(task.started_at)) / 1000);
  const usual = doing?.usual_seconds ?? null;
  const slow = usual !== null && elapsed > SLOW * usual && elapsed > 1;
  return html`<tr>
    <td title=${task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a>
      <span class="detail"><${WaitsFor} doing=${doing} />${[task.category, task.priority, placeOf(task.engine, doing?.pid),
        doing?.waiting_for || !doing?.awaiting ? null : `awaits ${doing.awaiting}`].filter(Boolean).join(" · ")}</span></td>
    <td>${task.progress.updated_at === null ? html`<span class="quiet">–</span>` : html`
      <progress max="100" value=${task.progress.percent} aria-label="Progress"></progress>
      <span class="detail" title=${task.progress.message}>${progressOf(task)}</span>`}</td>
    <td class="number ${slow ? "slow" : ""}">${duration(elapsed)}${usual === null ? null
      : html`<span class="detail" title="the median of its last runs">usually ${duration(usual)}</span>`}</td>
    <td class="number extra">${percent(doing?.busy_share)}</td>
  </tr>`;
}

function WaitsFor({ doing }) {
  const id = doing?.waiting_for;
  return id ? html`waits for <a href=${href("tasks", id)}>${doing.waiting_for_name ?? id}</a> · ` : null;
}

// What failed last, also where many others have ended since.
function Failed() {
  const total = useStore((state) => state.counts?.by_status.failed ?? 0);
  const failed = useStore((state) => state.failed);
  const now = useNow(1);
  const shown = failed.slice(-firstShown()).reverse();
  return html`<section class="card" aria-labelledby="failed-title">
    <header><h2 id="failed-title">Failed last <span class="badge">${count(total)}</span></h2>
      ${total ? html`<a class="small" href=${href("tasks", null, { status: "failed" })}>see all</a>` : null}</header>
    ${shown.length === 0 ? html`<p class="empty">${noneOf("failed", total)}</p>` : html`<table class="list" id="failed">
      <colgroup><col /><col class="ago" /></colgroup>
      <thead><tr><th scope="col">Task</th><th scope="col" class="number">Failed</th></tr></thead>
      <tbody>${shown.map((task) => html`<tr key=${task.task_id}>
        <td title=${task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a>
          <span class="detail error-text" title=${task.error}>${errorOf(task)}</span></td>
        <td class="number"><${Moment} at=${task.completed_at} now=${now} />
          <span class="detail">${task.duration_seconds === null ? "never started" : `after ${duration(task.duration_seconds)}`}</span></td>
      </tr>`)}</tbody>
    </table>`}
  </section>`;
}

function firstShown() {
  return matchMedia("(max-width: 46rem)").matches ? FIRST_SHOWN_NARROW : FIRST_SHOWN;
}

function noneOf(word, total) {
  return total ? `None of the tasks that ${word} is kept.` : `No task has ${word} yet.`;
}

function Ended() {
  const total = useStore((state) => state.counts && FINAL.reduce((sum, status) => sum + state.counts.by_status[status], 0));
  useStore((state) => state.version);
  const { tasks, ended } = store.state;
  const shown = ended.slice(-ENDED_SHOWN).reverse().map((id) => tasks.get(id)).filter(Boolean);
  return html`<section class="card" aria-labelledby="ended-title">
    <header><h2 id="ended-title">Recently ended</h2></header>
    ${shown.length === 0 ? html`<p class="empty">${noneOf("ended", total)}</p>` : html`<table class="list ended-list" id="ended">
      <colgroup><col class="status" /><col /><col class="number" /><col class="number wide" /></colgroup>
      <thead><tr><th scope="col">Status</th><th scope="col">Task</th>
        <th scope="col" class="number">Took</th><th scope="col" class="number wide">Ended</th></tr></thead>
      <tbody>${shown.map((task) => html`<tr key=${task.task_id}>
        <td><${Status} status=${task.status} /></td>
        <td title=${task.error ?? task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a>
          <span class="error-text small after-name">${errorOf(task)}</span></td>
        <td class="number">${duration(task.duration_seconds)}</td>
        <td class="number wide"><${Moment} at=${task.completed_at} /></td>
      </tr>`)}</tbody>
    </table>`}
  </section>`;
}
