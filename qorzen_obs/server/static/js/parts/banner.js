// What is wrong right now, as one banner: that the service is gone, who blocks its loop, or what its checks found. If
// nothing is, what earlier processes took along when they died.

import { html } from "../../vendor/preact.js";
import { href } from "../router.js";
import { store, useNow, usePolled, useStore } from "../store.js";
import { duration, many, moment } from "../words.js";

export const STALL_SECONDS = 0.5; // a shorter stall of the loop is worth a look at its chart, and no alarm
const LOOP = "work-loop:blocked";
const LOSS_MS = 86_400_000; // so long after the start that found it a loss is news
const RANK = { fail: 0, warn: 1 };
// What our own checks say when they do not pass. Those that state no figure of their own leave it to the cards below,
// which have it from the stream and so a little sooner.
const WORDS = {
  [LOOP]: ({ output }) => html`<strong>The work loop</strong> is ${output}`,
  "manager:initialized": () => html`<strong>The service is still starting.</strong>`,
  "manager:state": ({ observedValue: state }) => html`<strong>The service takes no work</strong>: ${state}.`,
  "scheduler:stalled": ({ output }) => html`<strong>Tasks that could start do not start</strong>: ${output}`,
  "queue:saturation": ({ observedValue: percent }) => html`<strong>The queue is ${percent < 100 ? "almost full" : "full"}.</strong>${" "}
    <a href=${href("tasks", null, { status: "pending" })}>See what is pending</a>`,
  "tasks:abandoned": () => html`<strong>Tasks that did not stop still hold threads.</strong>`,
  "history:durable": ({ output }) => html`<strong>The history is not durable</strong>: ${output}`,
  "telemetry:export": ({ output }) => html`<strong>Telemetry is incomplete</strong>: ${output}`,
};

// The loop is watched closely where the reader looks at this moment; elsewhere once a check says that it stands.
// The view of the checks says itself what they have found.
export function Banner({ health, losses, view }) {
  const connection = useStore((state) => state.connection);
  const findings = findingsOf(health);
  const { document: loop } = usePolled(view === "now" || findings.some(({ name }) => name === LOOP) ? "api/loop" : null, 1);
  if (connection === "stale") return html`<${Stale} />`;
  if (view === "health") return null;
  const others = findings.filter(({ name }) => name !== LOOP);
  if (loop?.state === "blocked" && loop.blocked_seconds >= STALL_SECONDS) return html`<${Culprit} loop=${loop} others=${others.length} />`;
  if (findings.length) return html`<${Finding} of=${findings} />`;
  return view === "now" ? html`<${Lost} losses=${losses ?? []} />` : null;
}

// What does not pass, the worst first.
function findingsOf(health) {
  return Object.entries(health?.checks ?? {}).flatMap(([name, checks]) =>
    checks.filter((check) => check.status !== "pass").map((check) => ({ name, ...check })))
    .filter((finding) => !isShortStall(finding))
    .sort((a, b) => RANK[a.status] - RANK[b.status]);
}

function isShortStall({ name, status, observedValue }) {
  return name === LOOP && status === "warn" && observedValue < STALL_SECONDS;
}

// What is shown is old: said at once, greyed by the style, and gone by itself.
function Stale() {
  const staleSince = useStore((state) => state.staleSince);
  const now = useNow() - store.state.clockOffset;
  const since = staleSince === null
    ? ""
    : ` The data shown is from ${moment(staleSince, now)} (${duration((now - staleSince) / 1000)} ago).`;
  return html`<div class="banner bad" id="stale">
    <span role="alert">The service does not answer.</span>${since} The page reconnects by itself.
  </div>`;
}

function Lost({ losses }) {
  const now = useNow(60);
  const lost = losses.filter((loss) => loss.running + loss.pending && now - Date.parse(loss.noticed_at) < LOSS_MS);
  if (!lost.length) return null;
  const tasks = lost.reduce((sum, loss) => sum + loss.running + loss.pending, 0);
  return html`<div class="banner warn" id="lost" role="status">
    <strong>${many(tasks, "task")} ${tasks === 1 ? "was" : "were"} lost</strong> when the process ended at ${moment(lost[0].last_seen_at, now)}.${" "}
    <a href=${href("tasks", null, { error_type: "lost" })}>See which</a>
  </div>`;
}

function Culprit({ loop: { culprit, blocked_seconds: blocked, cause }, others }) {
  return html`<div class="banner bad" id="culprit" role="alert">
    <strong>The work loop is blocked</strong> for ${duration(blocked)}
    ${cause === "not_running" ? "; the process did not get to run."
      : culprit === null ? "; what holds it is not known yet." : html` by <${CulpritName} of=${culprit} />.`} <${More} n=${others} />
    ${placesOf(culprit).map((place) => html`<code>${place}</code>`)}
  </div>`;
}

function Finding({ of: [first, ...others] }) {
  return html`<div class="banner ${first.status === "fail" ? "bad" : "warn"}" id="warnings" role="status">
    ${WORDS[first.name]?.(first) ?? html`<strong>${first.name}</strong>: ${first.output ?? first.status}`} <${More} n=${others.length} />
  </div>`;
}

function More({ n }) {
  return n ? html`<a href=${href("health")}>${many(n, "more problem")}</a>` : null;
}

export function CulpritName({ of: { name, task_id: id, task_name: taskName } }) {
  return id === null ? name : html`<a href=${href("tasks", id)}>${taskName}</a>`;
}

// The line of its own code that holds the loop, and the one that this has led to.
export function placesOf(culprit) {
  const frames = culprit?.frames ?? [];
  const own = frames.filter((frame) => frame.file === frames[0].file).at(-1);
  return [...new Set([own, frames.at(-1)])].filter(Boolean).map(placeOf);
}

function placeOf(frame) {
  return frame ? `${frame.file}:${frame.line} in ${frame.function}${frame.code ? `: ${frame.code}` : ""}` : "";
}
