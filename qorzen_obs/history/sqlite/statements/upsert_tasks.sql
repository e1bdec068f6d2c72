-- {rows} is one or more tuples of places. A change that is of an earlier state than the stored one, or another owner's, does nothing.
INSERT INTO tasks (
    task_id, version, epoch, status, category, priority, plugin_id, name, definition,
    error_type, error, parent_id, created_at, started_at, completed_at, claim_key, details
)
VALUES {rows}
ON CONFLICT (task_id) DO UPDATE SET
    version = excluded.version,
    status = excluded.status,
    error_type = excluded.error_type,
    error = excluded.error,
    created_at = excluded.created_at,
    started_at = excluded.started_at,
    completed_at = excluded.completed_at,
    claim_key = excluded.claim_key,
    details = excluded.details
WHERE excluded.version >= tasks.version AND tasks.epoch = excluded.epoch
