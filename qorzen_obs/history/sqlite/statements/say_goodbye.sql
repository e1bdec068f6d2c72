UPDATE owners SET last_seen_at = ?, ended_at = ?, goodbye = 1 WHERE epoch = ? AND ended_at IS NULL
