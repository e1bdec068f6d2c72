// The attempts of a task, as its record has them; each that has ended has also left its line in the task's log.

import { html } from "../../vendor/preact.js";
import { href } from "../router.js";
import { duration, errorOf } from "../words.js";
import { Moment } from "./moment.js";
import { Status } from "./status.js";

const ENDS = new Set(["task.retrying", "task.finished"]);

// [{ number, status, at, queue_wait_seconds, duration_seconds, error, error_type, trace_id }], the first first. Pure.
export function attempts(lines, task) {
  const known = new Map();
  for (const { number, started_at: start, ended_at: at, error_type } of task.attempts ?? []) {
    const took = at && (Date.parse(at) - Date.parse(start)) / 1000;
    const status = number < task.attempt || task.status === "pending" ? "failed" : task.status;
    known.set(number, { number, status, at, duration_seconds: took, queue_wait_seconds: null, error_type, trace_id: null });
  }
  for (const line of lines) {
    if (!ENDS.has(line.event) || !Number.isInteger(line.attempt) || line.attempt < 1) continue;
    const status = line.event === "task.retrying" ? "failed" : line.status;
    known.set(line.attempt, { ...line, number: line.attempt, status });
  }
  if (task.status === "running") known.set(task.attempt, { number: task.attempt, status: "running", at: null, trace_id: task.trace_id });
  return [...known.values()].sort((a, b) => a.number - b.number);
}

// The traces of a task: an attempt that its submitter's trace does not hold has one of its own.
export function traceIds(found, task) {
  return [...new Set([...found.map((one) => one.trace_id), task.trace_id].filter(Boolean))];
}

// Only where there was more than one.
export function Attempts({ of: found, task }) {
  if (task.attempt < 2 && task.status !== "pending") return null;
  if (!found.length) return null;
  const older = Math.max(0, found[0].number - 1);
  return html`<section class="card" id="attempts" aria-labelledby="attempts-title"><header><h2 id="attempts-title">Attempts</h2></header>
    ${older ? html`<p class="quiet small">The lines of the first ${older} are not kept.</p>` : null}
    <table class="list"><thead><tr><th scope="col" class="number">#</th><th scope="col">Status</th>
      <th scope="col">Error</th><th scope="col" class="number">Took</th><th scope="col" class="number wide">Waited</th>
      <th scope="col" class="number wide">Ended</th><th scope="col" class="number">Trace</th></tr></thead>
    <tbody>${found.map((one) => html`<tr key=${one.number}>
      <td class="number">${one.number}</td><td><${Status} status=${one.status} /></td>
      <td class="error-text" title=${one.error}>${errorOf(one)}</td>
      <td class="number">${duration(one.duration_seconds)}</td><td class="number wide">${duration(one.queue_wait_seconds)}</td>
      <td class="number wide"><${Moment} at=${one.at} /></td>
      <td class="number">${one.trace_id && one.at ? html`<a href=${href("traces", one.trace_id)}>open</a>` : "–"}</td></tr>`)}</tbody></table>
  </section>`;
}
