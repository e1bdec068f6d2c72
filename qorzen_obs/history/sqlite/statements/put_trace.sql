INSERT INTO traces (trace_id, task_id, spans) VALUES (?, ?, ?)
ON CONFLICT (trace_id) DO UPDATE SET task_id = excluded.task_id, spans = excluded.spans
