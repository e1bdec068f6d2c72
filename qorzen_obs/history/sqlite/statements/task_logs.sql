SELECT lines FROM task_logs WHERE task_id = ?
