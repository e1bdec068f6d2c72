SELECT epoch, instance, service, version, pid, started_at, last_seen_at, ended_at, goodbye FROM owners ORDER BY epoch
