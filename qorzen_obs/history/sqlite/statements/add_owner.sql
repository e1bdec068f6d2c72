INSERT INTO owners (
    instance, service, version, boot_id, pid_namespace, pid, process_start, started_at, last_seen_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
