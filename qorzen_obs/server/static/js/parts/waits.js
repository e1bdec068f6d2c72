// For how long what is pending has waited. What was asked for knows the tasks from before this page was opened, and the
// stream knows what has happened since, so a wait is never that of a task which the counts no longer count.

import { store } from "../store.js";

// By each value of `field`, "priority" or "category", the pending task that has waited for longest: { id, seconds }.
export function longestWaits(field, asked) {
  const now = store.known();
  const { tasks, pending } = store.state;
  const found = {};
  const take = (key, id, since) => {
    const seconds = Math.max(0, (now - since) / 1000);
    if (!(found[key]?.seconds >= seconds)) found[key] = { id, seconds };
  };
  for (const [key, one] of Object.entries(asked?.[`by_${field}`] ?? {})) {
    const id = one.oldest_task_id;
    if (id !== null && (tasks.get(id)?.status ?? "pending") === "pending") take(key, id, Date.parse(asked.at) - one.oldest_age_seconds * 1000);
  }
  const firsts = {};
  for (const task of pending.values()) { // by their texts: to read thousands of moments would take longer
    if (!(firsts[task[field]]?.eligible_at <= task.eligible_at)) firsts[task[field]] = task;
  }
  for (const [key, { task_id: id, eligible_at: since, created_at: created }] of Object.entries(firsts)) {
    // One that has just come may lie a little ahead of what is known of the service's clock; it is not scheduled.
    if (since <= created || Date.parse(since) <= now) take(key, id, Date.parse(since));
  }
  return found;
}
