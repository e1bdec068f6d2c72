// How the tasks of each definition do: how many, how fast, how long, how often they fail, and whose time it is.

import { html, useMemo, useState } from "../../vendor/preact.js";
import { Bulk } from "../parts/bulk.js";
import { Moment } from "../parts/moment.js";
import { go, href } from "../router.js";
import { useNow, usePolled } from "../store.js";
import { count, duration, percent, rate } from "../words.js";

const OTHER = "_other";
const COLUMNS = {
  definition: ["Task", (one) => one.definition],
  running: ["Running", (one) => one.running, "number wide"],
  pending: ["Pending", (one) => one.pending, "number wide"],
  count: ["Ended", (one) => one.count, "number"],
  rate: ["Rate", (one) => one.rate, "number wide"],
  failed: ["Failed", (one) => one.failed, "number"],
  p50: ["Run p50", (one) => one.run.p50, "number roomy"],
  p95: ["Run p95", (one) => one.run.p95, "number"],
  p99: ["Run p99", (one) => one.run.p99, "number roomy"],
  wait50: ["Wait p50", (one) => one.wait.p50, "number roomy"],
  wait95: ["Wait p95", (one) => one.wait.p95, "number wide"],
  wait99: ["Wait p99", (one) => one.wait.p99, "number roomy"],
  share: ["Share", (one) => one.share, "number"],
};

export function Definitions({ route: { query } }) {
  const { document: found, problem, reload } = usePolled("api/definitions", 5);
  const page = usePolled("api/page", 0).document;
  const now = useNow(5);
  const sort = Object.hasOwn(COLUMNS, query.get("sort")) ? query.get("sort") : "share";
  const rows = useMemo(() => sorted(found?.items ?? [], sort), [found, sort]);
  return html`<section class="card" id="definitions">
    <header><h1>By task <span class="badge">${count(found && rows.length)}</span></h1></header>
    ${problem ? html`<p class="error-text" role="status">${problem.message}</p>` : null}
    ${found === null ? null : found.limit === 0 ? html`<p class="empty">Tasks are not counted by definition: <code>telemetry.metrics_by_definition</code> is 0.</p>`
      : rows.length === 0 ? html`<p class="empty">No task was submitted yet.</p>` : html`
      <table class="list definitions-list"><thead><tr>${Object.entries(COLUMNS).map(([name, [title, , kind]]) => html`
        <th key=${name} scope="col" class=${kind ?? ""} aria-sort=${name === sort ? (name === "definition" ? "ascending" : "descending") : null}>
          <button type="button" class="link" onClick=${() => go(href("definitions", null, { sort: name }), { replace: true })}>${title}${name === sort ? (name === "definition" ? " ↑" : " ↓") : ""}</button></th>`)}
        <th scope="col" class="number roomy">Last failure</th></tr></thead>
      <tbody>${rows.map((one) => html`<${Row} key=${one.definition} one=${one} now=${now}
        mayControl=${page?.may_control} reload=${reload} />`)}</tbody></table>
      <p class="quiet small notes">Counts, run times and shares are of all tasks since the start; the rate is of the last minute. Waits are of the tasks that are still kept.</p>`}
  </section>`;
}

function Row({ one, now, mayControl, reload }) {
  const { definition, run, wait, last_failure: failure } = one;
  const others = definition === OTHER;
  const live = one.running + one.pending;
  const name = others ? html`<span class="task-name" title="all names past telemetry.metrics_by_definition">other names</span>`
    : html`<a class="task-name" href=${href("tasks", null, { definition })}>${definition}</a>`;
  return html`<tr>
    <td class="of" title=${definition}>${name}${mayControl && live && !others
      ? html` <${Bulk} command="cancel" query=${{ definition }} danger label=${`Cancel ${count(live)}`} onDone=${reload} />` : null}</td>
    <td class="number wide">${count(one.running)}</td><td class="number wide">${count(one.pending)}</td>
    <td class="number">${count(one.count)}</td>
    <td class="number wide">${rate(one.rate)}</td>
    <td class="number">${one.failed === 0 ? html`<span class="quiet">0</span>`
      : html`<a class="error-text" href=${href("failures", null, others ? null : { definition })}>${count(one.failed)}</a>`}</td>
    <td class="number roomy">${duration(run.p50)}</td><td class="number">${duration(run.p95)}</td><td class="number roomy">${duration(run.p99)}</td>
    <td class="number roomy">${duration(wait.p50)}</td><td class="number wide">${duration(wait.p95)}</td><td class="number roomy">${duration(wait.p99)}</td>
    <td class="number"><${Share} of=${one.share} /></td>
    <td class="number roomy">${failure === null ? html`<span class="quiet">–</span>`
      : html`<a href=${href("tasks", failure.task_id)} title=${failure.error_type}><${Moment} at=${failure.at} now=${now} /></a>`}</td>
  </tr>`;
}

function Share({ of }) {
  if (of === null) return html`<span class="quiet">–</span>`;
  return html`${percent(of)}<progress max="1" value=${of} aria-label="Share of all run time"></progress>`;
}

// The largest first; names in order.
function sorted(items, column) {
  const key = COLUMNS[column][1];
  const way = column === "definition" ? 1 : -1;
  return [...items].sort((a, b) => {
    const [one, other] = [key(a) ?? -1, key(b) ?? -1];
    return way * (one < other ? -1 : one > other ? 1 : 0);
  });
}
