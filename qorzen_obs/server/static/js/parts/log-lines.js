// The kept log lines of a task: moment, level, event, and the fields that it was written with.

import { html } from "../../vendor/preact.js";
import { count } from "../words.js";
import { Moment } from "./moment.js";

const NONE = {
  early: "Too early: it has written no log lines yet.",
  late: "Too late: its log lines were evicted.",
};
const OWN = new Set(["at", "level", "event", "trace_id", "span_id"]);

export function LogLines({ lines, dropped, missing }) {
  if (!lines.length) return html`<p class="empty">${NONE[missing] ?? "It has written no log lines."}</p>`;
  return html`
    ${dropped ? html`<p class="quiet small">${count(dropped)} older lines are not kept.</p>` : null}
    <ol class="log-lines" tabindex="0" aria-label="Log lines">
      ${lines.map((line, at) => html`<li key=${at} class=${`level-${line.level}`}>
        <${Moment} at=${line.at} /> <span class="level">${line.level}</span> <strong>${line.event}</strong>
        <span class="quiet"> ${fields(line)}</span></li>`)}
    </ol>`;
}

function fields(line) {
  const own = line.event === "task.finished" ? new Set([...OWN, "exception"]) : OWN; // the task's own traceback
  return Object.entries(line).filter(([key]) => !own.has(key))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
}
