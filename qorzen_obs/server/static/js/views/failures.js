// The kept failures, those of one cause in one row, with what can be done about all of them.

import { html } from "../../vendor/preact.js";
import { Bulk } from "../parts/bulk.js";
import { Moment } from "../parts/moment.js";
import { href } from "../router.js";
import { usePolled, useNow } from "../store.js";
import { count, many } from "../words.js";

export function Failures({ route }) {
  const definition = route.query.get("definition") ?? "";
  const query = new URLSearchParams(definition ? { definition } : {});
  const { document: found, problem, reload } = usePolled(`api/failures${definition ? `?${query}` : ""}`, 5);
  const page = usePolled("api/page", 0).document;
  const now = useNow(5);
  return html`<section class="card" id="failures">
    <header><h1>Failures <span class="badge">${count(found?.count)}</span></h1>
      ${definition ? html`<a class="button small" href=${href("failures")}>definition ${definition} ✕</a>` : null}</header>
    ${problem ? html`<p class="error-text" role="status">${problem.message}</p>` : null}
    ${found?.items.length ? html`<p class="quiet small">${summary(found)}</p>` : null}
    ${found === null ? null : found.items.length === 0 ? html`<p class="empty">No kept task has failed.</p>` : html`
      <table class="list failures-list"><thead><tr><th scope="col">Definition and error</th><th scope="col" class="number">Count</th>
        <th scope="col" class="number wide">First</th><th scope="col" class="number wide">Last</th>
        ${page?.may_control ? html`<th scope="col" class="does"><span class="sr-only">Run again</span></th>` : null}</tr></thead>
      <tbody>${found.items.map((group) => html`<${Group} key=${`${group.definition} ${group.error_type}`} group=${group} now=${now}
        mayControl=${page?.may_control} reload=${reload} />`)}</tbody></table>`}
  </section>`;
}

function summary(found) {
  const gone = found.failed_total - found.count;
  const hidden = found.groups - found.items.length;
  return [
    `${many(found.groups, "group")} of kept failures.`,
    gone > 0 ? `${count(found.failed_total)} tasks have failed since the start.` : "",
    hidden > 0 ? `${count(hidden)} more groups are not shown.` : "",
  ].filter(Boolean).join(" ");
}

function Group({ group, now, mayControl, reload }) {
  const { definition, error_type: type, example } = group;
  const query = { status: "failed", definition, error_type: type };
  return html`<tr>
    <td class="cause" title=${example.error || null}><a class="task-name" href=${href("tasks", null, query)}>${definition}</a>
      <span class="error-text"> ${type}</span>
      <a class="example quiet small" href=${href("tasks", example.task_id)}>${example.error || `for example ${example.name}`}</a>
      <span class="narrow quiet small">last <${Moment} at=${group.last_at} now=${now} /></span></td>
    <td class="number">${count(group.count)}</td>
    <td class="number wide"><${Moment} at=${group.first_at} now=${now} /></td>
    <td class="number wide"><${Moment} at=${group.last_at} now=${now} /></td>
    ${mayControl ? html`<td class="does">${group.rerunnable
      ? html`<${Bulk} command="rerun" query=${{ definition, error_type: type }} label=${`Run ${count(group.rerunnable)} again`} onDone=${reload} />`
      : html`<span class="quiet small">${group.rerun === group.count ? "all run again" : "cannot run again"}</span>`}</td>` : null}
  </tr>`;
}
