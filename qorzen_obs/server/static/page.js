// The live page: asks once a second and shows what the service says of itself.
// Texts of tasks are data: they reach the page as textContent only, never as markup.

const POLL_MS = 1000;
const ANSWER_MS = 3000;
const RUNNING_SHOWN = 100;
const PENDING_SHOWN = 20;
const ENDED_SHOWN = 25;
const STATUSES = ["running", "pending", "completed", "failed", "cancelled"];

const $ = (id) => document.getElementById(id);

let token = null; // in memory only
let lastAnswer = null; // local time of the last complete answer
let shownTask = null; // id of the task in the dialog
let before = null; // counts of the poll before, for the rates

// ---------------------------------------------------------------- asking

class Refused extends Error {}
class Unreachable extends Error {}
class Problem extends Error {}

async function ask(path, { failing = null } = {}) {
  let response, body;
  try {
    response = await fetch(path, {
      headers: token === null ? {} : { Authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(ANSWER_MS),
      cache: "no-store",
    });
    body = await response.json(); // problems are JSON too
  } catch {
    throw new Unreachable("the service does not answer");
  }
  if (response.status === 401) throw new Refused("the service asks for its token");
  if (!response.ok && response.status !== failing) throw new Problem(body.detail ?? `HTTP ${response.status}`);
  return body;
}

async function poll() {
  const status = await ask("status"); // first and alone: a wrong token is refused once and not five times
  const [health, running, pending, ended] = await Promise.all([
    ask("health", { failing: 503 }), // a check fails; the body says which
    ask(`api/tasks?status=running&order=oldest&limit=${RUNNING_SHOWN}`),
    ask(`api/tasks?status=pending&order=oldest&limit=${PENDING_SHOWN}`),
    ask(`api/tasks?order=ended&limit=${ENDED_SHOWN}`),
  ]);
  lastAnswer = new Date();
  showService(status, health);
  showQueue(status);
  showRunning(running, status);
  showPending(pending, status);
  showEnded(ended);
}

async function turn() {
  try {
    await poll();
    $("login").hidden = true;
    $("main").hidden = false;
    showStale(null);
  } catch (error) {
    if (error instanceof Refused) return askForToken();
    if (!(error instanceof Unreachable || error instanceof Problem)) console.error(error);
    showStale(error);
  }
  if (document.hidden) {
    document.addEventListener("visibilitychange", turn, { once: true });
  } else {
    setTimeout(turn, POLL_MS);
  }
}

function askForToken() {
  $("refused").hidden = token === null;
  token = null;
  $("main").hidden = $("warnings").hidden = true;
  showStale(null);
  $("login").hidden = false;
  $("token").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  turn();
});

// ---------------------------------------------------------------- showing

function showStale(error) {
  $("stale").hidden = error === null;
  document.body.classList.toggle("stale", error !== null);
  if (error === null) return;
  const since = lastAnswer === null ? "" : ` What you see is from ${clock(lastAnswer)}.`;
  const what =
    error instanceof Unreachable ? "The service does not answer."
    : error instanceof Problem ? `The service cannot answer: ${error.message}.`
    : "This page failed; the browser's console says why.";
  setText($("stale"), `${what}${since} Trying again every second.`);
}

function showService(status, health) {
  const { by_status: counts } = status.tasks;
  document.title = `Tasks: ${counts.running} running`;
  setText($("state"), status.state);
  $("state").dataset.state = status.state;
  $("state").hidden = false;
  setText($("versions"), status.versions?.qorzen_obs ? `qorzen_obs ${status.versions.qorzen_obs}` : "");

  const findings = Object.entries(health.checks).flatMap(([name, [finding]]) =>
    finding.status === "pass" ? [] : [{ name, text: `${name.replace(":", " ")}: ${finding.output}` }],
  );
  $("warnings").hidden = findings.length === 0;
  sync($("warnings"), findings, (finding) => finding.name, "li", (item, finding) => setText(item, finding.text));

  const now = performance.now();
  const seconds = before === null ? 0 : (now - before.now) / 1000;
  sync($("counts"), STATUSES, (name) => name, "div", (tile, name) => {
    const [label, count, rate] = cells(tile, 3, "span");
    tile.className = `tile ${name}${counts[name] ? "" : " none"}`;
    setText(label, name);
    setText(count, counts[name].toLocaleString("en"));
    const gained = before === null ? 0 : counts[name] - before.counts[name];
    const rises = STATUSES.indexOf(name) >= 2 && gained > 0 && seconds > 0;
    setText(rate, rises ? `+${(gained / seconds).toFixed(gained / seconds < 10 ? 1 : 0)}/s` : "");
  });
  before = { now, counts };
}

function showQueue({ queue, slots }) {
  const used = queue.depth + queue.scheduled;
  setText($("depth"), queue.depth.toLocaleString("en"));
  const later = queue.scheduled ? `, ${queue.scheduled.toLocaleString("en")} for later` : "";
  setText($("depth-limit"), `of ${queue.limit.toLocaleString("en")} places${later}`);
  $("depth-bar").value = used / queue.limit;
  $("depth-bar").className = used >= 0.9 * queue.limit ? "full" : "";
  const age = queue.oldest_pending_age_seconds;
  setText($("oldest"), queue.depth && age !== null ? `The oldest waits ${duration(age)}.` : "Nobody waits.");

  sync($("slots"), Object.entries(slots), ([engine]) => engine, "li", (item, [engine, use]) => {
    const [name, bar, text] = cells(item, 3, "span", "progress", "span");
    setText(name, engine);
    bar.max = Math.max(use.limit, 1);
    bar.value = use.busy;
    bar.className = use.busy >= use.limit ? "full" : "";
    bar.setAttribute("aria-label", `${engine} slots in use`);
    const more = [use.lent && `${use.lent} lent`, use.abandoned && `${use.abandoned} abandoned`].filter(Boolean);
    setText(text, [`${use.busy} / ${use.limit}`, ...more].join(", "));
    text.className = use.abandoned ? "error-text" : "";
  });
}

function showRunning({ items, at }, status) {
  showCount("running", status.tasks.by_status.running, items.length);
  sync($("running"), items, (task) => task.task_id, "tr", (row, task) => {
    const [name, category, priority, engine, progress, elapsed] = cells(row, 6);
    showName(name, task, [task.category, task.priority, task.engine]);
    showWide([category, priority, engine], [task.category, task.priority, task.engine]);
    progress.className = task.progress.updated_at === null ? "progress-column none" : "progress-column";
    const [bar, text] = cells(progress, 2, "progress", "span");
    bar.max = 100;
    bar.value = task.progress.percent;
    bar.hidden = task.progress.updated_at === null;
    bar.setAttribute("aria-label", "Progress");
    setText(text, progressText(task) || "–");
    elapsed.className = "number";
    setText(elapsed, duration((Date.parse(at) - Date.parse(task.started_at)) / 1000));
  });
}

function showPending({ items, at }, status) {
  showCount("pending", status.tasks.by_status.pending, items.length);
  sync($("pending"), items, (task) => task.task_id, "tr", (row, task) => {
    const [name, category, priority, engine, waiting] = cells(row, 5);
    showName(name, task, [task.category, task.priority, task.engine]);
    showWide([category, priority, engine], [task.category, task.priority, task.engine]);
    waiting.className = "number";
    const seconds = (Date.parse(at) - Date.parse(task.eligible_at ?? task.created_at)) / 1000;
    setText(waiting, seconds < 0 ? `in ${duration(-seconds)}` : duration(seconds));
  });
}

function showEnded({ items }) {
  sync($("ended"), items, (task) => task.task_id, "tr", (row, task) => {
    const [status, name, error, took, when, trace] = cells(row, 6);
    status.className = "status-column";
    const [chip] = cells(status, 1, "span");
    chip.className = `chip ${task.status}`;
    setText(chip, task.status);
    showName(name, task, [errorText(task) || task.category]);
    error.className = "wide error-column";
    setText(error, errorText(task));
    error.title = task.error ?? "";
    took.className = "number";
    setText(took, task.duration_seconds === null ? "–" : duration(task.duration_seconds));
    when.className = "number wide";
    setText(when, clock(new Date(task.completed_at)));
    trace.className = "number";
    showTraceLink(trace, task, "open");
  });
}

function showCount(id, count, shown) {
  setText($(`${id}-count`), count.toLocaleString("en"));
  $(`${id}-more`).hidden = count <= shown;
  setText($(`${id}-more`), `and ${(count - shown).toLocaleString("en")} more; these are the oldest.`);
}

function showName(cell, task, meta) {
  cell.className = "name";
  const [button, line] = cells(cell, 2, "button", "span");
  button.type = "button";
  button.title = task.name;
  setText(button, task.name);
  button.onclick = () => openDetails(task.task_id);
  line.className = task.status === "failed" ? "meta error-text" : "meta quiet";
  setText(line, [...meta, task.plugin_id].filter(Boolean).join(" · "));
}

function showWide(columns, texts) {
  columns.forEach((cell, index) => {
    cell.className = "wide";
    setText(cell, texts[index]);
  });
}

function showTraceLink(parent, task, text) {
  const [link] = cells(parent, 1, "a");
  link.hidden = task.trace_id === null;
  if (link.hidden) return;
  link.href = `api/tasks/${encodeURIComponent(task.task_id)}/trace`;
  link.target = "_blank";
  link.rel = "noopener";
  setText(link, text);
  link.onclick = (event) => {
    if (token === null) return; // a plain link; with a token only this page can ask
    event.preventDefault();
    openTrace(task);
  };
}

// ---------------------------------------------------------------- one task

async function openDetails(taskId) {
  const task = await askForDialog(`api/tasks/${encodeURIComponent(taskId)}`);
  if (task === null) return;
  const fields = [
    ["Id", task.task_id],
    ["Status", task.status + (task.abandoned ? ", abandoned: its code may still run" : "")],
    ["Category", task.category],
    ["Priority", task.priority],
    ["Engine", `${task.engine}, cancelling is ${task.cancel_guarantee}`],
    ["Plugin", task.plugin_id],
    ["Attempt", task.attempt || null],
    ["Progress", task.progress.updated_at && progressText(task)],
    ["Accepted", moment(task.created_at)],
    ["Started", moment(task.started_at)],
    ["Ended", moment(task.completed_at)],
    ["Waited", task.queue_wait_seconds === null ? null : duration(task.queue_wait_seconds)],
    ["Took", task.duration_seconds === null ? null : duration(task.duration_seconds)],
    ["Timeout", task.timeout_seconds === null ? "none" : duration(task.timeout_seconds)],
    ["Waits for", task.waiting_for],
    ["Cancelled by", task.cancel_reason],
    ["Error type", task.error_type],
    ["Error", task.error],
    ["Trace", task.trace_id],
  ].filter(([, text]) => text !== null && text !== "");
  showDialog(task.name, fields, task.traceback);
  showTraceLink($("details-trace"), task, "Open the trace as OTLP/JSON");
}

async function openTrace(task) {
  const trace = await askForDialog(`api/tasks/${encodeURIComponent(task.task_id)}/trace`);
  if (trace === null) return;
  showDialog(task.name, [["Trace", task.trace_id]], JSON.stringify(trace, null, 2));
  showTraceLink($("details-trace"), { ...task, trace_id: null }, "");
}

async function askForDialog(path) {
  try {
    return await ask(path);
  } catch (error) {
    showDialog("Not to be had", [["Reason", error.message]], null);
    showTraceLink($("details-trace"), { trace_id: null }, "");
    return null;
  }
}

function showDialog(title, fields, text) {
  setText($("details-name"), title);
  sync($("details-fields"), fields, ([label]) => label, "div", (pair, [label, value]) => {
    const [term, description] = cells(pair, 2, "dt", "dd");
    setText(term, label);
    setText(description, value);
  });
  $("details-text").hidden = !text;
  setText($("details-text"), text ?? "");
  if (!$("details").open) $("details").showModal();
}

$("details-close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close(); // the backdrop
});

// ---------------------------------------------------------------- the document

// Makes the children of `parent` stand for `items`, in order. A child that stays is updated in place, so that focus,
// selection and a click half done survive a poll.
function sync(parent, items, keyOf, tag, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const key = String(keyOf(item));
    const child = known.get(key) ?? document.createElement(tag);
    known.delete(key);
    child.dataset.key = key;
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    update(child, item);
  });
  known.forEach((child) => child.remove());
}

// Returns the first `count` children, made where they are missing: cells, or by `tags`, of which the last one repeats.
function cells(parent, count, ...tags) {
  for (let index = parent.children.length; index < count; index += 1) {
    parent.append(document.createElement(tags[index] ?? tags.at(-1) ?? "td"));
  }
  return [...parent.children];
}

function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

// ---------------------------------------------------------------- words

function errorText(task) {
  const kind = task.error_type?.split(".").at(-1) ?? (task.status === "cancelled" ? task.cancel_reason : null);
  const text = [kind, task.error].filter(Boolean).join(": ");
  return task.abandoned ? `${text} (abandoned)`.trim() : text;
}

function progressText(task) {
  if (task.progress.updated_at === null) return "";
  return [`${Math.floor(task.progress.percent)} %`, task.progress.message].filter(Boolean).join(" · ");
}

function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.001) return `${(s * 1e6).toFixed(0)} µs`;
  if (s < 1) return `${(s * 1e3).toFixed(s < 0.01 ? 1 : 0)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  const whole = Math.floor(s);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
}

function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

function moment(text) {
  return text === null ? null : `${new Date(text).toLocaleDateString("en-CA")} ${clock(new Date(text))}`;
}

turn();
