DELETE FROM tasks WHERE rowid IN (
    SELECT rowid FROM tasks WHERE completed_at IS NOT NULL ORDER BY completed_at, task_id LIMIT ?
)
