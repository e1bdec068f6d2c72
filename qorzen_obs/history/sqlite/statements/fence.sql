-- Changes no row if another process has ended this owner. Within the transaction that writes.
UPDATE owners SET last_seen_at = ? WHERE epoch = ? AND ended_at IS NULL
