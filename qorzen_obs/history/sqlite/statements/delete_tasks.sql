-- {rows} are task ids, of the present owner. Only while a task has not started: version 1 is one that was accepted.
DELETE FROM tasks
WHERE task_id IN (VALUES {rows}) AND version = 1 AND epoch IN (SELECT epoch FROM owners WHERE ended_at IS NULL)
