// What the page knows of the service: one state, changed by the event stream alone, and seen by whoever subscribes.

import { useEffect, useRef, useState } from "../vendor/preact.js";
import { ask, onAccess } from "./server.js";
import { follow } from "./stream.js";

export const STATUSES = ["pending", "running", "completed", "failed", "cancelled"];
const FINAL = new Set(["completed", "failed", "cancelled"]);
export const MAX_TASKS = 20_000;
export const MAX_FAILED = 25;
const TELL_MS = 250; // what changes more often nobody reads, and each telling draws whole tables

export function emptyState() {
  return {
    connection: "connecting", // then "live" or "stale"
    staleSince: null, // milliseconds, of the last word of a stream that is gone
    heardAt: null, // milliseconds
    managerState: null,
    counts: null, // { total, by_status, by_category, by_priority } and of what is pending or running by either
    tasks: new Map(), // by id, the newest line of each; the same object always, changed in place
    running: new Map(), // those of them that run
    pending: new Map(), // and those that are pending
    ended: [], // the ids of those that have ended, oldest end first
    failed: [], // the last of them that failed, oldest end first; kept when the map forgets them
    clockOffset: 0, // milliseconds that the service's clock is ahead of the viewer's
    version: 0, // rises with each change of a task
  };
}

// Takes a batch of events; returns the next state and which tasks have changed: null where all may have.
// The maps are changed in place: copying 20,000 entries ten times a second would be most of the page's work.
export function reduce(state, events, now) {
  let next = { ...state, heardAt: now };
  let changed = new Set();
  for (const { event, data } of events) {
    if (event === "snapshot") {
      next = begun(next, data, now);
      changed = null;
    } else if (event === "state") {
      next.managerState = data.state;
    } else if (event !== "reset") { // a snapshot follows that
      happened(next, data);
      changed?.add(data.task.task_id);
    }
  }
  const at = Date.parse(events.at(-1)?.data?.at);
  if (at - now > next.clockOffset) next.clockOffset = at - now; // the snapshot was longer on its way than this
  forgetOldest(next, changed);
  if (changed === null || changed.size) next.version += 1;
  return { state: next, changed };
}

function begun(state, snapshot, now) {
  const { tasks, running, pending } = state;
  tasks.clear();
  running.clear();
  pending.clear();
  const ended = [];
  for (const task of [...snapshot.newest, ...snapshot.ended, ...snapshot.running]) tasks.set(task.task_id, task);
  for (const task of tasks.values()) place(state, task);
  for (const task of tasks.values()) if (FINAL.has(task.status)) ended.push(task);
  ended.sort((a, b) => (a.completed_at < b.completed_at ? -1 : 1));
  return {
    ...state,
    managerState: snapshot.state,
    counts: snapshot.counts,
    ended: ended.map((task) => task.task_id),
    failed: ended.filter((task) => task.status === "failed").slice(-MAX_FAILED),
    clockOffset: Date.parse(snapshot.at) - now,
  };
}

function happened(state, { previous, task, kind }) {
  const before = state.tasks.get(task.task_id);
  state.tasks.set(task.task_id, task);
  place(state, task);
  if (FINAL.has(task.status) && before?.status !== task.status) {
    state.ended.push(task.task_id);
    if (task.status === "failed") state.failed = [...state.failed, task].slice(-MAX_FAILED);
  }
  const isNew = kind === "task/submitted";
  if (state.counts === null || (!isNew && (previous === null || previous === task.status))) return;
  const { total, by_status, by_category, by_priority, pending_by_priority, pending_by_category, running_by_category } = state.counts;
  const plus = (counts, key, n) => (n ? { ...counts, [key]: (counts[key] ?? 0) + n } : counts);
  const more = (status) => (task.status === status) - (previous === status);
  state.counts = {
    total: total + isNew,
    by_status: plus(isNew ? by_status : plus(by_status, previous, -1), task.status, 1),
    by_category: isNew ? plus(by_category, task.category, 1) : by_category,
    by_priority: isNew ? plus(by_priority, task.priority, 1) : by_priority,
    pending_by_priority: plus(pending_by_priority, task.priority, more("pending")),
    pending_by_category: plus(pending_by_category, task.category, more("pending")),
    running_by_category: plus(running_by_category, task.category, more("running")),
  };
}

function place({ running, pending }, task) {
  for (const [status, map] of [["running", running], ["pending", pending]]) {
    if (task.status === status) map.set(task.task_id, task);
    else map.delete(task.task_id);
  }
}

function forgetOldest(state, changed) {
  const over = Math.min(state.tasks.size - MAX_TASKS, state.ended.length);
  if (over <= 0) return;
  for (const id of state.ended.splice(0, over)) {
    state.tasks.delete(id);
    changed?.add(id);
  }
}

// ---------------------------------------------------------------- the one store of the page

let state = emptyState();
// What all parts of the page draw until they are told of the next, so that a part that draws in between shows the same
// numbers as the others.
let shown = { ...state, runningNow: [] };
const subscribers = new Set(); // of the state: told at once, and then again when TELL_MS are over
const watchers = new Set(); // of tasks: told of each batch, with the ids that it changed
let due = false;
let toldAt = -TELL_MS;

function set(next) {
  state = next;
  if (due) return;
  due = true;
  setTimeout(() => requestAnimationFrame(() => {
    due = false;
    toldAt = performance.now();
    shown = snapshotOf(state);
    subscribers.forEach((tell) => tell());
  }), Math.max(0, toldAt + TELL_MS - performance.now()));
}

function snapshotOf(now) {
  if (now.version === shown.version) return { ...now, runningNow: shown.runningNow };
  return { ...now, runningNow: [...now.running.values()] };
}

export const store = {
  get state() {
    return state;
  },
  subscribe(tell) {
    subscribers.add(tell);
    return () => subscribers.delete(tell);
  },
  // Calls `tell(changed)` with a Set of ids, or null where everything is new.
  watch(tell) {
    watchers.add(tell);
    return () => watchers.delete(tell);
  },
  // Takes in tasks that the stream has not told of, from the answer to a question.
  async learn(path) {
    const { items } = await ask(path);
    const changed = new Set();
    for (const task of items) {
      if (state.tasks.has(task.task_id) || FINAL.has(task.status)) continue; // the stream knows better
      state.tasks.set(task.task_id, task);
      place(state, task);
      changed.add(task.task_id);
    }
    if (!changed.size) return;
    set({ ...state, version: state.version + 1 });
    watchers.forEach((tell) => tell(changed));
  },
  // The service's clock, in milliseconds.
  now() {
    return Date.now() + state.clockOffset;
  },
  // The same, but it stands still while the service does not answer: nobody knows how long its tasks went on.
  known() {
    return state.staleSince === null ? store.now() : state.staleSince + state.clockOffset;
  },
  start() {
    follow(
      (events) => {
        const { state: next, changed } = reduce(state, events, Date.now());
        set(next);
        if (changed === null || changed.size) watchers.forEach((tell) => tell(changed));
      },
      (connection) => {
        if (connection === state.connection) return;
        set({ ...state, connection, staleSince: connection === "stale" ? state.heardAt : null });
      },
    );
  },
};

// Returns what `select` takes from the state, and renders again when that is another.
export function useStore(select) {
  const selected = select(shown);
  const [, setVersion] = useState(0);
  const seen = useRef();
  seen.current = { select, selected };
  useEffect(() => {
    const look = () => {
      if (!Object.is(seen.current.select(shown), seen.current.selected)) setVersion((n) => n + 1);
    };
    look(); // it may have changed since the first drawing
    return store.subscribe(look);
  }, []);
  return selected;
}

// Asks for a document again and again while somebody can see it. Gives { document, problem, reload }: the last document
// stays where a later question fails. No path, no question.
export function usePolled(path, seconds, { failing = null } = {}) {
  const [answer, setAnswer] = useState({ path, document: null, problem: null });
  const reload = useRef(() => {});
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    let timer = null;
    const turn = async () => {
      clearTimeout(timer);
      try {
        const found = await ask(path, { signal: stop.signal, failing });
        if (!stop.signal.aborted) setAnswer({ path, document: found, problem: null });
      } catch (problem) {
        if (stop.signal.aborted) return;
        setAnswer((before) => ({ path, document: before.path === path ? before.document : null, problem }));
      }
      if (!document.hidden && !stop.signal.aborted && seconds) timer = setTimeout(turn, seconds * 1000);
    };
    const seen = () => document.hidden || turn();
    const leave = onAccess(turn);
    document.addEventListener("visibilitychange", seen);
    reload.current = turn;
    turn();
    return () => {
      stop.abort();
      clearTimeout(timer);
      leave();
      document.removeEventListener("visibilitychange", seen);
    };
  }, [path, seconds]);
  const known = answer.path === path;
  return {
    document: known ? answer.document : null,
    problem: known ? answer.problem : null,
    reload: () => reload.current(),
  };
}

// Renders again every `seconds`, for what says how long ago something was; returns the service's clock.
export function useNow(seconds = 1) {
  const [, setVersion] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setVersion((n) => n + 1), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return store.now();
}
