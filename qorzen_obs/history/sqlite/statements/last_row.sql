SELECT max(rowid) FROM tasks
