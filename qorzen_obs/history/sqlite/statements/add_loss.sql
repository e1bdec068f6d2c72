INSERT INTO losses (epoch, noticed_at, noticed_by, running, pending, by_category) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (epoch) DO NOTHING
