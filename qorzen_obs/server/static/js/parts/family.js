// The task that submitted a task, and those that it led to itself.

import { html } from "../../vendor/preact.js";
import { href } from "../router.js";
import { STATUSES } from "../store.js";
import { count, many } from "../words.js";
import { Bulk } from "./bulk.js";

const LIVE = ["pending", "running"];

export function Family({ task, mayControl, onDone }) {
  const { children, below } = task.family ?? {};
  if (!below?.total && !task.parent_id) return null;
  const live = below ? LIVE.reduce((sum, status) => sum + below.by_status[status], 0) : 0;
  return html`<section class="card" id="family"><header><h2>Parent and children</h2>
    ${mayControl && live ? html`<${Bulk} command="cancel" query=${{ below: task.task_id }} danger label=${`Cancel all below (${count(live)})`} onDone=${onDone} />` : null}</header>
    <dl class="facts">
      ${task.parent_id ? html`<dt>submitted by</dt><dd><${Parent} id=${task.parent_id} name=${task.family?.parent_name} /></dd>` : null}
      ${below?.total ? html`<dt>children</dt><dd><${Numbers} of=${children} query=${{ parent_id: task.task_id }} /></dd>
        <dt>all below</dt><dd><${Numbers} of=${below} query=${{ below: task.task_id }} /></dd>` : null}
    </dl></section>`;
}

function Parent({ id, name }) {
  return html`<a class=${name ? "" : "mono"} href=${href("tasks", id)} title=${id}>${name ?? id}</a>`;
}

function Numbers({ of, query }) {
  const parts = STATUSES.filter((status) => of.by_status[status]);
  return html`<a href=${href("tasks", null, query)}>${many(of.total, "task")}</a>${parts.length ? ": " : ""}${parts.map((status, index) => html`
    ${index ? ", " : ""}<a key=${status} class=${status === "failed" ? "error-text" : ""} href=${href("tasks", null, { ...query, status })}>${count(of.by_status[status])} ${status}</a>`)}`;
}
