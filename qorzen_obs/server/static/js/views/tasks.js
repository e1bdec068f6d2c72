// All tasks, live and past: searched and filtered by the address, so that each view is a link.

import { html, useEffect, useMemo, useRef, useState } from "../../vendor/preact.js";
import { Copy } from "../parts/copy.js";
import { Moment } from "../parts/moment.js";
import { Status } from "../parts/status.js";
import { matcher, sorted, took, waited } from "../parts/task-index.js";
import { go, href } from "../router.js";
import { ask } from "../server.js";
import { store, STATUSES, useNow } from "../store.js";
import { count, duration, errorOf, moment, relative } from "../words.js";

const LIVE = new Set(["pending", "running"]);
const FIRST_PAGE = 50; // what is seen at once
const PAGE = 1000;
const MAX_LOADED = 20_000;
const REFRESH_MS = 400; // so often the list takes in what has happened
const ROW_PIXELS = 36;
const SPARE_ROWS = 10;
const FILTERS = {
  status: STATUSES,
  category: ["core", "plugin", "ui", "io", "background", "user"],
  priority: ["critical", "high", "normal", "low"],
};
// What no field is for, and how it is called.
const BY_ADDRESS = [["name", "name"], ["definition", "definition"], ["error_type", "error"], ["parent_id", "submitted by"],
  ["below", "below"], ["instance", "instance"], ["created_before", "before"]];
const FILTERED = ["status", "category", "priority", "plugin_id", "q", "created_after", ...BY_ADDRESS.map(([name]) => name)];
const COLUMNS = [
  ["status", "Status"], ["name", "Task"], ["category", "Category", "wide roomy"], ["priority", "Priority", "wide roomy"],
  ["wait", "Waited", "number wide"], ["took", "Took", "number"], ["created", "Accepted", "number wide"],
];

export function Tasks({ route: { query } }) {
  const search = useRef();
  const [at, setAt] = useState(0); // the row that j and k move
  const cursor = useRef(0); // the same at once: keys may come faster than the page is drawn
  const isHeld = useRef(false); // the reader is in the middle of the list: what is new waits, so that nothing moves away
  const { tasks, more, fresh, refresh, lack, unavailable } = useTasks(query, isHeld);
  const column = query.get("sort") ?? "created";
  const descending = (query.get("way") ?? (column === "created" ? "down" : "up")) === "down";
  const rows = useMemo(() => sorted(tasks, column, descending, store.now()), [tasks, column, descending]);
  const current = Math.min(at, Math.max(0, rows.length - 1));
  const move = (by) => {
    cursor.current = Math.max(0, Math.min(cursor.current + by, rows.length - 1));
    setAt(cursor.current);
    hold();
  };
  const box = useRef();
  const hold = () => { isHeld.current = cursor.current > 0 || (box.current?.scrollTop ?? 0) > ROW_PIXELS; };
  const showFresh = () => {
    cursor.current = box.current.scrollTop = 0;
    setAt(0);
    isHeld.current = false;
    refresh();
  };
  useKeys({
    "/": () => search.current.focus(),
    j: () => move(1),
    k: () => move(-1),
    Enter: () => rows[cursor.current] && go(href("tasks", rows[cursor.current].task_id)),
    n: () => fresh && showFresh(),
    Escape: () => go(href("tasks")),
  }, search);
  return html`
    <div class="tasks-head">
      <h1>Tasks <span class="badge" id="shown">${count(rows.length)}</span></h1>
      <span role="status">${fresh ? html`<button type="button" class="button small primary" id="fresh" onClick=${showFresh}>${count(fresh)} new</button>` : null}</span>
      ${unavailable ? html`<span class="quiet small" id="unavailable">stored tasks are missing: the history cannot be read now</span>` : null}
      ${more ? html`<span class="quiet small">only the newest ${count(MAX_LOADED)}; narrow the search to see older tasks</span>` : null}
      <${Copy} text=${location.href} label="Copy the link" />
    </div>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input ref=${search} type="search" id="search" placeholder="Search name, id, error  ( / )" aria-label="Search"
        value=${query.get("q") ?? ""} onInput=${(event) => change(query, "q", event.target.value)} />
      ${Object.entries(FILTERS).map(([name, values]) => html`<select key=${name} aria-label=${name} id=${`by-${name}`}
        value=${query.get(name) ?? ""} onChange=${(event) => change(query, name, event.target.value)}>
        <option value="">any ${name}</option>${values.map((one) => html`<option value=${one}>${one}</option>`)}
      </select>`)}
      <input class="plugin" id="by-plugin" placeholder="Plugin" aria-label="Plugin" value=${query.get("plugin_id") ?? ""}
        onInput=${(event) => change(query, "plugin_id", event.target.value)} />
      <label class="since"><span class="quiet small">since</span><input type="datetime-local" id="since" step="1"
        value=${localTime(query.get("created_after"))} onChange=${(event) => change(query, "created_after", utc(event.target.value))} /></label>
      ${BY_ADDRESS.filter(([name]) => query.get(name)).map(([name, words]) => html`<button key=${name} type="button" class="button small"
        aria-label=${`Any ${words}`} onClick=${() => change(query, name, "")}>${words} ${shownValue(name, query.get(name))} ✕</button>`)}
      ${FILTERED.some((name) => query.has(name)) ? html`<a class="button" href=${href("tasks")}>Clear</a>` : null}
    </form>
    <${List} box=${box} moved=${hold} rows=${rows} lack=${lack} current=${current} column=${column} descending=${descending} query=${query} />
    <p class="quiet small keys">Keys: / search · j k move · enter open · n show new · esc clear</p>
  `;
}

function List({ box, moved, rows, lack, current, column, descending, query }) {
  const [view, setView] = useState({ top: 0, height: 800 });
  const look = () => {
    setView({ top: box.current.scrollTop, height: box.current.clientHeight });
    moved();
  };
  useEffect(look, []);
  useEffect(() => {
    const { scrollTop, clientHeight } = box.current;
    const top = current * ROW_PIXELS;
    if (top < scrollTop) box.current.scrollTop = top;
    else if (top + 2 * ROW_PIXELS > scrollTop + clientHeight) box.current.scrollTop = top + 2 * ROW_PIXELS - clientHeight;
  }, [current]);
  useNow(1);
  const now = store.known();
  const first = Math.max(0, Math.floor(view.top / ROW_PIXELS) - SPARE_ROWS);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW_PIXELS) + SPARE_ROWS);
  // One cell: a colspan would make columns of those that a narrow window does not show.
  const space = (height) => html`<tr aria-hidden="true" style=${{ height: `${height * ROW_PIXELS}px` }}><td></td></tr>`;
  return html`<div class="card scroll" ref=${box} onScroll=${look} tabindex="0" role="region" aria-label="The list of tasks">
    <table class="list tasks-list" aria-rowcount=${rows.length + 1}>
      <thead><tr aria-rowindex="1">${COLUMNS.map(([name, title, kind]) => html`<th key=${name} scope="col" class=${kind ?? ""}
        aria-sort=${name === column ? (descending ? "descending" : "ascending") : null}>
        <button type="button" class="link" onClick=${() => sortBy(query, name, name === column && !descending)}>
          ${title}${name === column ? (descending ? " ↓" : " ↑") : ""}</button></th>`)}</tr></thead>
      <tbody id="tasks">
        ${first > 0 ? space(first) : null}
        ${rows.slice(first, last).map((task, index) => html`<${Row} key=${task.task_id} task=${task} index=${first + index + 2}
          current=${first + index === current} now=${LIVE.has(task.status) ? now : null} />`)}
        ${last < rows.length ? space(rows.length - last) : null}
      </tbody>
    </table>
    ${rows.length === 0 ? html`<p class="empty">${lack ?? (FILTERED.some((name) => query.has(name)) ? "No task matches." : "No task was submitted yet.")}</p>` : null}
  </div>`;
}

// Made anew where one of them is another; a task is another object after each of its events. `now` is null for one that
// has ended.
function Row({ task, index, current, now }) {
  return useMemo(() => row(task, index, current, now), [task, index, current, now]);
}

function row(task, index, current, now) {
  const error = errorOf(task);
  return html`<tr aria-rowindex=${index} class=${current ? "current" : ""}>
    <td><${Status} status=${task.status} /></td>
    <td title=${error || task.name}><a class="task-name" href=${href("tasks", task.task_id)}>${task.name}</a>
      ${error ? html` <span class="error-text small">${error}</span>` : null}</td>
    <td class="wide roomy">${task.category}</td><td class="wide roomy">${task.priority}</td>
    <td class="number wide">${waitOf(task, now)}</td>
    <td class="number">${task.status === "pending" ? html`<span class="narrow pending-wait">waits ${waitOf(task, now)}</span><span class="wide">–</span>`
      : duration(took(task, now))}</td>
    <td class="number wide"><${Moment} at=${task.created_at} /></td>
  </tr>`;
}

function waitOf(task, now) {
  const seconds = waited(task, now);
  return seconds === null && now !== null && task.eligible_at ? relative(task.eligible_at, now) : duration(seconds);
}

// The tasks that fit: what the service has, in pages, and from then on what the stream tells. While the list is not at
// rest it is made anew a few times a second, however much happens. While `isHeld` no row is added: `fresh` says how many
// wait, and `refresh` takes them in.
function useTasks(query, isHeld) {
  const asked = new URLSearchParams([...query].filter(([name, value]) => FILTERED.includes(name) && value));
  const key = asked.toString();
  const [found, setFound] = useState({ tasks: [], more: false, fresh: 0, refresh: () => {}, lack: "Reading…", unavailable: false });
  useEffect(() => {
    const given = new Set(asked.getAll("below")); // and what the service says is below
    const fits = matcher(asked, given);
    const known = new Map();
    let shown = new Set(); // ids
    const stop = new AbortController();
    let more = false, unavailable = false, dirty = true, ids = new Set();
    let lack = "Reading…"; // why there may be tasks though none is shown
    const leave = store.watch((changed) => {
      if (changed === null) ids = new Set(store.state.tasks.keys());
      else changed.forEach((id) => ids.add(id));
      dirty = true;
    });
    const take = (task) => (fits(task) ? known.set(task.task_id, task) : known.delete(task.task_id));
    const refresh = () => {
      if (!dirty || document.hidden) return;
      for (const id of ids) {
        const task = store.state.tasks.get(id);
        if (task) take(task);
        else if (known.size > MAX_LOADED) known.delete(id); // the store has let go of it too
      }
      dirty = false;
      ids = new Set();
      if (!isHeld.current) shown = new Set(known.keys());
      const tasks = [...known.values()].filter((task) => shown.has(task.task_id));
      setFound({ tasks, more, fresh: known.size - tasks.length, refresh: takeAll, lack, unavailable });
    };
    const takeAll = () => {
      dirty = true;
      refresh();
    };
    const load = async () => {
      let cursor = null;
      do {
        const page = await ask(`api/tasks?${asked}${key ? "&" : ""}limit=${cursor ? PAGE : FIRST_PAGE}${cursor ? `&cursor=${cursor}` : ""}`, { signal: stop.signal });
        unavailable ||= page.history_unavailable;
        for (const task of page.items) {
          if (asked.has("below")) given.add(task.task_id);
          take(store.state.tasks.get(task.task_id) ?? task);
          shown.add(task.task_id);
        }
        dirty = true;
        lack = null;
        refresh();
        cursor = page.next_cursor;
        await drawn();
      } while (cursor && known.size < MAX_LOADED);
      more = Boolean(cursor);
    };
    load().catch((error) => {
      if (stop.signal.aborted) return;
      if (!error.unreachable) console.warn(error.message);
      lack &&= error.message;
      takeAll();
    });
    const timer = setInterval(refresh, REFRESH_MS);
    return () => {
      stop.abort();
      clearInterval(timer);
      leave();
    };
  }, [key]);
  return found;
}

// What is there is seen before more is asked for.
function drawn() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

function useKeys(actions, search) {
  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = event.target.matches("input, select, textarea");
      if (typing && event.key === "Escape" && event.target === search.current) return search.current.blur();
      if (typing || (event.key === "Enter" && event.target.matches("a, button")) || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}

function change(query, name, value) {
  const next = new URLSearchParams(query);
  if (value) next.set(name, value);
  else next.delete(name);
  go(href("tasks", null, next), { replace: true });
}

function sortBy(query, column, descending) {
  const next = new URLSearchParams(query);
  next.set("sort", column);
  next.set("way", descending ? "down" : "up");
  go(href("tasks", null, next), { replace: true });
}

function shownValue(name, value) {
  return name === "created_before" && !Number.isNaN(Date.parse(value)) ? moment(value, store.now()) : value;
}

function localTime(moment) {
  const at = new Date(moment || "");
  return Number.isNaN(at.getTime()) ? "" : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function utc(local) {
  return local ? new Date(local).toISOString() : "";
}
