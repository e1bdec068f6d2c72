SELECT epoch, instance, service, version, boot_id, pid_namespace, pid, process_start, started_at, last_seen_at
FROM owners WHERE ended_at IS NULL ORDER BY epoch
