SELECT instance, started_at, last_seen_at, noticed_at, running, pending, by_category
FROM losses JOIN owners USING (epoch) ORDER BY noticed_at DESC, epoch DESC
