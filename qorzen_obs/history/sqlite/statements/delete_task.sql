-- Only while it has not started: version 1 is a task that was accepted.
DELETE FROM tasks WHERE task_id = ? AND epoch = ? AND version = 1
