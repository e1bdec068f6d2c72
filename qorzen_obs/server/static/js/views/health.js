// How the service does and how its telemetry does: checks with their past, what became of spans, versions, settings.

import { html, useState } from "../../vendor/preact.js";
import { Moment } from "../parts/moment.js";
import { useNow, usePolled } from "../store.js";
import { count } from "../words.js";

const SIGNS = { pass: "✓", warn: "!", fail: "✕" };

export function Health() {
  return html`
    <h1 class="sr-only">Health and telemetry</h1>
    <${Checks} />
    <${Telemetry} />
    <${InForce} />
  `;
}

function Checks() {
  const { document: past } = usePolled("api/health/history", 2);
  const now = useNow(1);
  return html`<section class="card" aria-labelledby="checks-title">
    <header><h2 id="checks-title">Checks</h2></header>
    <table class="list checks" id="checks">
      <thead><tr><th scope="col">Check</th><th scope="col">State</th><th scope="col" class="wide">Probe</th>
        <th scope="col" class="wide">Output</th><th scope="col">Since</th></tr></thead>
      <tbody>${past?.checks.map((check) => html`<tr key=${check.name}>
        <td title=${check.name}>${check.name}${check.output ? html`<span class="detail brief">${check.output}</span>` : null}</td>
        <td><${Outcome} status=${check.status} /></td>
        <td class="wide">${check.probe}</td>
        <td class="wide" title=${check.output}>${check.output}</td>
        <td><${Moment} at=${check.since} now=${now} /> <${Past} changes=${check.changes} /></td>
      </tr>`)}</tbody>
    </table>
  </section>`;
}

function Outcome({ status }) {
  return html`<span class="outcome ${status}"><span aria-hidden="true">${SIGNS[status]}</span> ${status}</span>`;
}

function Past({ changes }) {
  if (changes.length < 2) return null;
  return html`<details class="past"><summary>${count(changes.length)} changes</summary>
    <ol>${changes.map((change) => html`<li><${Outcome} status=${change.status} /> <${Moment} at=${change.at} />
      ${change.output ? html` <span class="quiet">${change.output}</span>` : null}</li>`)}</ol>
  </details>`;
}

function Telemetry() {
  const { document: status } = usePolled("status", 2);
  if (status === null) return null;
  const { telemetry, versions } = status;
  const fates = Object.entries(telemetry.spans ?? {});
  const total = fates.reduce((sum, [, n]) => sum + n, 0);
  return html`<div class="grid after">
    <section class="card" aria-labelledby="spans-title">
      <header><h2 id="spans-title">Spans by outcome</h2><span class="quiet small">${count(total)} in total</span></header>
      <table class="list" id="spans"><tbody>${fates.map(([fate, n]) => html`<tr key=${fate}>
        <th scope="row">${fate.replaceAll("_", " ")}</th>
        <td><progress max=${Math.max(total, 1)} value=${n} aria-label=${`Share: ${fate}`}></progress></td>
        <td class="number">${count(n)}</td></tr>`)}</tbody></table>
    </section>
    <section class="card" aria-labelledby="export-title">
      <header><h2 id="export-title">Export and versions</h2></header>
      <dl class="facts">
        <dt>Sampling</dt><dd>${telemetry.sampling}</dd>
        <dt>Exporters</dt><dd>${telemetry.exporters?.join(", ") || "none"}</dd>
        <dt>Queue</dt><dd>${count(telemetry.span_queue?.size)} of ${count(telemetry.span_queue?.limit)}</dd>
        <dt>Last export</dt><dd><${Moment} at=${telemetry.last_export_at} /></dd>
        <dt>Kept traces</dt><dd>${count(telemetry.traces_kept)}</dd>
        ${(telemetry.trouble ?? []).map((text) => html`<dt>Trouble</dt><dd class="error-text">${text}</dd>`)}
        ${Object.entries(versions).map(([name, version]) => html`<dt>${name}</dt><dd>${version}</dd>`)}
      </dl>
    </section>
  </div>`;
}

function InForce() {
  const { document: found } = usePolled("api/settings", 15);
  const [text, setText] = useState("");
  const rows = Object.entries(found?.sections ?? {}).flatMap(([section, settings]) =>
    Object.entries(settings).map(([name, one]) => ({ name: `${section}.${name}`, ...one })))
    .filter(({ name }) => name.includes(text.trim().toLowerCase()));
  return html`<section class="card after" aria-labelledby="settings-title">
    <header><h2 id="settings-title">Settings in force</h2>
      <input type="search" id="setting" aria-label="Search the settings" placeholder="Search" value=${text} onInput=${(event) => setText(event.target.value)} />
    </header>
    <table class="list settings" id="settings">
      <thead><tr><th scope="col">Setting</th><th scope="col">Value</th></tr></thead>
      <tbody>${rows.map(({ name, value, default: isDefault }) => html`<tr key=${name} class=${isDefault ? "quiet" : "changed"}>
        <td class="mono" title=${name}>${name}</td>
        <td class="mono">${shown(value)}${isDefault ? null : html` <span class="badge">changed</span>`}</td></tr>`)}</tbody>
    </table>
  </section>`;
}

function shown(value) {
  return typeof value === "string" ? value || "–" : JSON.stringify(value);
}
