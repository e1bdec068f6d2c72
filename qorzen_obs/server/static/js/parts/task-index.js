// Which tasks a view shows, and in which order. Pure.

const RANK = { running: 0, pending: 1, failed: 2, cancelled: 3, completed: 4 };
const PRIORITY = { low: 0, normal: 1, high: 2, critical: 3 };

// For how long a task has waited, or waits: until `now`, in milliseconds. Null where it has not begun to.
export function waited(task, now) {
  if (task.status !== "pending") return task.queue_wait_seconds;
  const seconds = (now - Date.parse(task.eligible_at ?? task.created_at)) / 1000;
  return seconds < 0 ? null : seconds;
}

// For how long it ran, or has been running.
export function took(task, now) {
  if (task.status !== "running") return task.duration_seconds;
  return Math.max(0, (now - Date.parse(task.started_at)) / 1000);
}

// What a column sorts by. Missing values come last, whichever way.
export const KEYS = {
  status: (task) => RANK[task.status],
  name: (task) => task.name,
  category: (task) => task.category,
  priority: (task) => PRIORITY[task.priority],
  wait: waited,
  took,
  created: (task) => task.created_at,
};

// Says of a task whether the query of the address asks for it, as /api/tasks does. `below` are the ids of the tasks below
// which it is to be, and of those known to be there; what is found is added.
export function matcher(query, below = new Set()) {
  const choice = (name) => new Set(query.getAll(name).flatMap((text) => text.split(",")).filter(Boolean));
  const [statuses, categories, priorities] = ["status", "category", "priority"].map(choice);
  const [plugins, names, definitions, errors, parents] = ["plugin_id", "name", "definition", "error_type", "parent_id"].map(choice);
  const instances = choice("instance");
  const ancestors = choice("below");
  const isBelow = (task) => {
    if (ancestors.has(task.task_id)) return false;
    if (below.has(task.parent_id)) below.add(task.task_id);
    return below.has(task.task_id);
  };
  const text = (query.get("q") ?? "").toLowerCase();
  const [after, before] = ["created_after", "created_before"].map((name) => Date.parse(query.get(name) || "") || null);
  return (task) => {
    const created = Date.parse(task.created_at);
    return (!statuses.size || statuses.has(task.status)) && (!categories.size || categories.has(task.category))
      && (!priorities.size || priorities.has(task.priority)) && (!plugins.size || plugins.has(task.plugin_id))
      && (!names.size || names.has(task.name)) && (!definitions.size || definitions.has(task.definition))
      && (!errors.size || errors.has(task.error_type)) && (!parents.size || parents.has(task.parent_id))
      && (!instances.size || instances.has(task.instance)) && (!ancestors.size || isBelow(task)) && (after === null || created >= after)
      && (before === null || created < before)
      && (!text || [task.name, task.task_id, task.plugin_id, task.error_type, task.error]
        .some((field) => field?.toLowerCase().includes(text)));
  };
}

// Returns the tasks in the order that a column asks for; among equals the newest first.
export function sorted(tasks, column, descending, now) {
  const key = KEYS[column] ?? KEYS.created;
  const way = descending ? -1 : 1;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return tasks.map((task) => ({ task, key: key(task, now) ?? null })).sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return way * compare(a.key, b.key) || compare(b.task.created_at, a.task.created_at);
  }).map(({ task }) => task);
}
