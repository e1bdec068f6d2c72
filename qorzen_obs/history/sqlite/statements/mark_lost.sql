UPDATE tasks SET
    error = lost_error(status, created_at, started_at, details),
    error_type = 'lost',
    status = 'failed',
    completed_at = :at,
    recovered_by = :epoch
WHERE status IN ('pending', 'running') AND epoch IS NOT NULL
