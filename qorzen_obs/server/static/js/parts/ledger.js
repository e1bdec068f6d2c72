// The time ledger: each moment of a task is in one phase, so the parts of this bar are its whole life.

import { html } from "../../vendor/preact.js";
import { duration } from "../words.js";

export const PHASES = {
  scheduled: "its delay had not passed",
  queued: "waited for a slot",
  retry_wait: "between two attempts",
  loop: "its code ran on the event loop",
  await: "its coroutine waited",
  thread_cpu: "used a processor in a thread",
  thread_wait: "its thread waited",
  process_cpu: "used a processor in a worker process",
  process_wait: "its worker process waited",
  transfer: "travelled to and from the worker process",
};

// [{ phase, seconds, share, percent }], in the order of a task's life; what took no time is left out.
export function shares(phases) {
  const known = Object.keys(PHASES).filter((phase) => phases[phase] > 0);
  const total = known.reduce((sum, phase) => sum + phases[phase], 0);
  const percents = wholePercents(known.map((phase) => phases[phase] / total));
  return known.map((phase, index) => ({ phase, seconds: phases[phase], share: phases[phase] / total, percent: percents[index] }));
}

// Whole percentages that add up to 100: each rounded down, and what is missing given to those that lost most by it.
export function wholePercents(parts) {
  const whole = parts.map((part) => Math.floor(100 * part));
  const lost = (index) => 100 * parts[index] - whole[index];
  const missing = parts.length ? 100 - whole.reduce((sum, one) => sum + one, 0) : 0;
  for (const index of [...parts.keys()].sort((a, b) => lost(b) - lost(a)).slice(0, missing)) whole[index] += 1;
  return whole;
}

export function Ledger({ phases }) {
  const parts = shares(phases);
  if (!parts.length) return html`<p class="quiet">Nothing is known of it: it has just begun, or the task is so old that its record is an outline.</p>`;
  return html`
    <div class="ledger" aria-hidden="true">
      ${parts.map(({ phase, seconds, share }) => html`<span key=${phase} title=${`${phase}: ${duration(seconds)}`}
        style=${{ width: `${share * 100}%`, background: `var(--phase-${phase})` }}></span>`)}
    </div>
    <ul class="ledger-legend">
      ${parts.map(({ phase, seconds, percent }) => html`<li key=${phase} title=${PHASES[phase]}>
        <span class="swatch" aria-hidden="true" style=${{ background: `var(--phase-${phase})` }}></span>
        <span class="mono">${phase}</span> <strong title=${`${seconds} s`}>${duration(seconds)}</strong>
        <span class="quiet">${percent} %</span></li>`)}
    </ul>`;
}
