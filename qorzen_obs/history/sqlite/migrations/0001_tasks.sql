-- Who owned this history, and until when. A process may write only while the row of its epoch has not ended.
CREATE TABLE owners (
    epoch INTEGER PRIMARY KEY AUTOINCREMENT,
    instance TEXT NOT NULL UNIQUE,
    service TEXT NOT NULL,
    version TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    pid INTEGER NOT NULL,
    process_start INTEGER,
    started_at REAL NOT NULL,
    last_seen_at REAL NOT NULL,
    ended_at REAL,
    -- 1 if it said so itself, 0 if a later owner found it dead.
    goodbye INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX owners_open ON owners (epoch) WHERE ended_at IS NULL;

-- The newest state of each task. Columns are what lists filter and sort by; `details` is the rest of TaskInfo as JSON.
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    -- The place of its state in its life, which only rises.
    version INTEGER NOT NULL,
    -- The owner; NULL if the task waits for one.
    epoch INTEGER REFERENCES owners (epoch),
    status TEXT NOT NULL,
    category TEXT NOT NULL,
    priority INTEGER NOT NULL,
    plugin_id TEXT,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    error_type TEXT,
    error TEXT,
    parent_id TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    -- The order in which pending tasks start: eligible_at - priority * ageing_seconds / 50.
    claim_key REAL NOT NULL,
    -- The owner that found the task lost with its process.
    recovered_by INTEGER REFERENCES owners (epoch),
    details TEXT NOT NULL
);

CREATE INDEX tasks_newest ON tasks (created_at, task_id);
CREATE INDEX tasks_priority ON tasks (created_at - priority * 1e10, task_id);
CREATE INDEX tasks_ended ON tasks (completed_at, task_id) WHERE completed_at IS NOT NULL;
CREATE INDEX tasks_live ON tasks (epoch, claim_key) WHERE status IN ('pending', 'running');
CREATE INDEX tasks_lost ON tasks (created_at, task_id) WHERE recovered_by IS NOT NULL;
CREATE INDEX tasks_status ON tasks (status, created_at, task_id);
CREATE INDEX tasks_category ON tasks (category, created_at, task_id);
CREATE INDEX tasks_by_priority ON tasks (priority, created_at, task_id);
CREATE INDEX tasks_plugin ON tasks (plugin_id, created_at, task_id) WHERE plugin_id IS NOT NULL;
CREATE INDEX tasks_name ON tasks (name, created_at, task_id);
CREATE INDEX tasks_definition ON tasks (definition, created_at, task_id);
CREATE INDEX tasks_error_type ON tasks (error_type, created_at, task_id) WHERE error_type IS NOT NULL;
CREATE INDEX tasks_parent ON tasks (parent_id, created_at, task_id) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_owner ON tasks (epoch, created_at, task_id);

-- The log lines of ended tasks: a JSON array, oldest first.
CREATE TABLE task_logs (
    task_id TEXT PRIMARY KEY,
    lines TEXT NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER tasks_forget_logs AFTER DELETE ON tasks BEGIN
    DELETE FROM task_logs WHERE task_id = OLD.task_id;
END;

-- The kept spans of a trace: a JSON array of OTLP spans, and the task that was stored last with it.
CREATE TABLE traces (
    trace_id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    spans TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX traces_task ON traces (task_id);

CREATE TRIGGER tasks_forget_traces AFTER DELETE ON tasks BEGIN
    DELETE FROM traces WHERE task_id = OLD.task_id;
END;

-- What each owner that died took along.
CREATE TABLE losses (
    epoch INTEGER PRIMARY KEY REFERENCES owners (epoch),
    noticed_at REAL NOT NULL,
    noticed_by INTEGER NOT NULL REFERENCES owners (epoch),
    running INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    -- Numbers of tasks by category, as JSON.
    by_category TEXT NOT NULL
);
