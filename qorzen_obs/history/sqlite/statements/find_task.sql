SELECT {columns} FROM tasks WHERE task_id = ?
