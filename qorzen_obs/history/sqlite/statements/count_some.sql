SELECT count(*) FROM (SELECT 1 FROM tasks WHERE {conditions} LIMIT ?)
