INSERT INTO task_logs (task_id, lines) VALUES {rows}
ON CONFLICT (task_id) DO UPDATE SET lines = excluded.lines
