-- What earlier owners left unfinished. Tasks without an owner wait for one and are not lost.
SELECT epoch, status, category, count(*)
FROM tasks WHERE status IN ('pending', 'running') AND epoch IS NOT NULL
GROUP BY epoch, status, category
