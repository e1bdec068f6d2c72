INSERT INTO traces (trace_id, task_id, spans) VALUES {rows}
ON CONFLICT (trace_id) DO UPDATE SET task_id = excluded.task_id, spans = excluded.spans
