// Recent and kept traces, found by name or id; and one of them.

import { html } from "../../vendor/preact.js";
import { Copy } from "../parts/copy.js";
import { Moment } from "../parts/moment.js";
import { Waterfall } from "../parts/waterfall.js";
import { go, href } from "../router.js";
import { usePolled } from "../store.js";
import { count, duration } from "../words.js";

const SORTS = { newest: "Newest", slowest: "Slowest", failed: "Failed first" };

export function Traces({ route }) {
  return route.id === null ? html`<${List} query=${route.query} />` : html`<${One} id=${route.id} />`;
}

function List({ query }) {
  const sort = Object.hasOwn(SORTS, query.get("sort")) ? query.get("sort") : "newest";
  const text = query.get("q") ?? "";
  const { document: found, problem } = usePolled(`api/traces?${new URLSearchParams({ sort, ...(text && { q: text }) })}`, 5);
  const show = (change) => {
    const next = { sort, q: text, ...change };
    go(href("traces", null, next.q ? next : { sort: next.sort }), { replace: true });
  };
  return html`<section class="card" id="traces">
    <h1>Traces</h1>
    <div class="trace-search">
      <label>Name or id <input type="search" value=${text} onInput=${(event) => show({ q: event.target.value })} /></label>
      <label>Order <select value=${sort} onChange=${(event) => show({ sort: event.target.value })}>
        ${Object.entries(SORTS).map(([key, words]) => html`<option value=${key} selected=${key === sort}>${words}</option>`)}
      </select></label>
    </div>
    ${problem ? html`<p class="error-text" role="status">${problem.message}</p>` : null}
    ${found === null ? null : found.items.length === 0 ? html`<p class="empty">${text ? "No kept trace matches." : "No trace is kept yet."}</p>` : html`
      <table class="list"><thead><tr><th scope="col">Name</th><th scope="col" class="wide">Started</th>
        <th scope="col" class="number">Duration</th><th scope="col" class="number wide">Spans</th>
        <th scope="col" class="number">Errors</th></tr></thead>
      <tbody>${found.items.map((one) => html`<tr key=${one.trace_id}>
        <td><a class="task-name" href=${href("traces", one.trace_id)} title=${one.root_name}>${one.root_name || one.trace_id}</a></td>
        <td class="wide"><${Moment} at=${one.started_at} /></td><td class="number">${duration(one.duration_seconds)}</td>
        <td class="number wide">${count(one.spans)}</td>
        <td class=${`number ${one.errors ? "error-text" : "quiet"}`}>${count(one.errors)}</td></tr>`)}</tbody></table>`}
  </section>`;
}

function One({ id }) {
  const { document: spans, problem } = usePolled(`api/traces/${encodeURIComponent(id)}`, 0);
  return html`<section class="card" id="trace">
    <header><h1 class="mono">${id}</h1><${Copy} text=${id} label="Copy id" /></header>
    ${spans ? html`<${Waterfall} document=${spans} />` : html`<p role="status">${problem?.message ?? "Reading…"}</p>`}
  </section>`;
}
