(SELECT * FROM tasks ORDER BY created_at DESC, task_id DESC LIMIT 50000)
