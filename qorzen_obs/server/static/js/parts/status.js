// A task's status: a word in its colour, with a sign for those who do not see colours.

import { html } from "../../vendor/preact.js";

const SIGNS = { pending: "○", running: "▶", completed: "✓", failed: "✕", cancelled: "–" };

export function Status({ status, small = false }) {
  return html`<span class="chip ${status}" title=${small ? status : null}>
    <span class="sign" aria-hidden="true">${SIGNS[status] ?? "?"}</span><span class=${small ? "sr-only" : ""}>${status}</span>
  </span>`;
}
