SELECT count(*) FROM tasks
