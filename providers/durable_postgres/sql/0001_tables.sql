-- Version 1: the tables of a hub. Runs in the hub's own schema (`search_path`), once.
--
-- Ids compare as bytes: COLLATE "C". Rows that change often lie in tables of their own with room on every page, so that an
-- update stays on its page and touches no index; such tables are swept early, by rows and not by their share of the table.
-- Partial indexes hold only what their query is about: a million dormant instances are in none of those that a worker asks.

CREATE TABLE hub (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    name text NOT NULL,
    store_id text NOT NULL, -- tells processes which of their connections lead to one and the same hub
    partitions bigint NOT NULL,
    version bigint NOT NULL,
    clock_number bigint NOT NULL DEFAULT 0, -- the three numbers of the hub's clock
    clock_correction bigint NOT NULL DEFAULT 0,
    clock_seen bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- A message's sequence is this number times 65,536 plus its partition: it is found by its sequence alone, and read by partition.
CREATE SEQUENCE message_numbers;
CREATE SEQUENCE former_numbers;

-- Every commit rewrites its lease's row; the page keeps room for the copies that wait to be pruned.
CREATE TABLE leases (
    lease_id text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    is_worker boolean NOT NULL,
    expires_at bigint NOT NULL,
    has_claimed boolean NOT NULL DEFAULT false,
    commit_number bigint NOT NULL DEFAULT 0,
    committed_at bigint NOT NULL DEFAULT 0,
    commit_verdicts smallint[],
    commit_sequences bigint[],
    submit_number bigint NOT NULL DEFAULT 0,
    submit_verdicts smallint[],
    submit_sequences bigint[]
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE workers (
    lease_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    announcement bytea NOT NULL
);

CREATE TABLE partitions (
    partition bigint PRIMARY KEY,
    lease_id text COLLATE "C"
) WITH (fillfactor = 50);
CREATE INDEX partitions_of_lease ON partitions (lease_id);

-- The current run of every instance. A turn that leaves `status`, `due_at`, `open_work`, `parked_until` and `slow_turns` as
-- they are changes no indexed column.
CREATE TABLE runs (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    partition bigint NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C",
    created_at bigint NOT NULL,
    scheduled_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    status smallint NOT NULL,
    generation bigint NOT NULL,
    records bigint NOT NULL,
    chain bytea NOT NULL,
    input bytea,
    output bytea,
    custom_status bytea,
    failure bytea,
    stall_reason text,
    completed_at bigint,
    parent_kind text COLLATE "C",
    parent_id text COLLATE "C",
    parent_run_id text COLLATE "C",
    parent_task text COLLATE "C",
    tags jsonb,
    due_at bigint,
    open_work bigint NOT NULL,
    parked_until bigint NOT NULL,
    state bytea NOT NULL,
    slow_turns bigint NOT NULL,
    slow_since bigint NOT NULL,
    PRIMARY KEY (kind, id)
) WITH (
    fillfactor = 60,
    toast_tuple_target = 1024, -- a payload that is not short leaves the row, which every turn copies
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 2000
);
CREATE INDEX runs_to_recover ON runs (partition) WHERE status < 4 AND (open_work > 0 OR status = 3 OR slow_turns > 0);
CREATE INDEX runs_due ON runs (due_at) WHERE status < 4 AND due_at IS NOT NULL;
CREATE INDEX runs_parked ON runs (parked_until) WHERE parked_until > 0;
CREATE INDEX runs_listed ON runs (kind, status, created_at, id);
CREATE INDEX runs_of_parent ON runs (parent_kind, parent_id) WHERE parent_id IS NOT NULL;

-- Runs that are not current: ended and replaced (place 1, in the order of their numbers), or waiting in a message (place 2).
CREATE TABLE former (
    number bigint NOT NULL,
    place smallint NOT NULL,
    LIKE runs,
    PRIMARY KEY (kind, id, run_id, number)
);
CREATE INDEX former_in_order ON former (kind, id, number) WHERE place = 1;
CREATE INDEX former_waiting ON former (kind, id) WHERE place = 2;

-- By which current runs are found by their tags. `tag` is a hash of name and value; the run's own `tags` decide.
CREATE TABLE tags (
    tag bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tag, kind, id)
);
CREATE INDEX tags_of_run ON tags (kind, id);

-- `part` counts the pieces of a long record; the checksum is that of the whole and stands in the first.
CREATE TABLE history (
    run_id text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    record bigint NOT NULL,
    part bigint NOT NULL,
    data bytea NOT NULL,
    checksum bytea NOT NULL,
    PRIMARY KEY (run_id, generation, record, part)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- What is eligible at once. `start_run_id`: the run whose row the message brings.
CREATE TABLE inbox (
    partition bigint NOT NULL,
    sequence bigint NOT NULL,
    priority smallint NOT NULL,
    visible_at bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    run_id text COLLATE "C",
    start_run_id text COLLATE "C",
    data bytea NOT NULL,
    PRIMARY KEY (partition, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX inbox_control ON inbox (sequence) WHERE priority = 0;

-- What is delayed, or waits for a parked instance (`is_parked`), so that `inbox` can be read from its beginning.
CREATE TABLE inbox_later (
    LIKE inbox,
    is_parked boolean NOT NULL,
    PRIMARY KEY (partition, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX inbox_delayed ON inbox_later (visible_at) WHERE NOT is_parked;
CREATE INDEX inbox_later_of_target ON inbox_later (kind, id, sequence);
CREATE INDEX inbox_parked ON inbox_later (kind, id) WHERE is_parked;

CREATE TABLE queue (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    task_id bigint NOT NULL,
    partition bigint NOT NULL,
    queue text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C",
    data bytea NOT NULL,
    priority bigint NOT NULL,
    visible_at bigint NOT NULL,
    start_by bigint,
    deliveries bigint NOT NULL,
    first_claimed_at bigint NOT NULL,
    heartbeat bytea,
    claimer text COLLATE "C",
    UNIQUE (kind, id, run_id, generation, task_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_free ON queue (queue, priority, number) WHERE claimer IS NULL;
CREATE INDEX queue_unclaimed ON queue (partition, number) WHERE claimer IS NULL;
CREATE INDEX queue_expiring ON queue (start_by) WHERE start_by IS NOT NULL AND first_claimed_at = 0 AND claimer IS NULL;
CREATE INDEX queue_claimed ON queue (claimer) WHERE claimer IS NOT NULL;

CREATE TABLE memos (
    key text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL,
    expires_at bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000);
CREATE INDEX memos_expiring ON memos (expires_at);

-- What the functions take and give, apart from the tables, so that a later version may change those and leave these.

CREATE TYPE run_v1 AS (
    kind text COLLATE "C", id text COLLATE "C", partition bigint, run_id text COLLATE "C", name text COLLATE "C",
    version text COLLATE "C", created_at bigint, scheduled_at bigint, updated_at bigint, status smallint, generation bigint,
    records bigint, chain bytea, input bytea, output bytea, custom_status bytea, failure bytea, stall_reason text,
    completed_at bigint, parent_kind text COLLATE "C", parent_id text COLLATE "C", parent_run_id text COLLATE "C",
    parent_task text COLLATE "C", tags text, due_at bigint, open_work bigint, parked_until bigint, state bytea,
    slow_turns bigint, slow_since bigint,
    tag_hashes bigint[]
);

-- `refused`, `other_refused`: the verdict of the provider on the message, and on what stands in for it; null where it may be
-- stored. `other_message`, `other_memo`: what stands in for it, by its place in an array of its own; null for none.
-- `in_place_of`: the sequence under which it is stored; null for the next one.
CREATE TYPE message_v1 AS (
    kind text COLLATE "C", id text COLLATE "C", partition bigint, data bytea, priority smallint, visible_at bigint,
    run_id text COLLATE "C", expects smallint, start run_v1, refused smallint, other_refused smallint,
    other_message bigint, other_memo bigint, in_place_of bigint
);

CREATE TYPE memo_v1 AS (key text COLLATE "C", data bytea, expires_at bigint);

-- `changed`: one bit for each column of `changes` that counts, in the order of run_v1. `is_told`: the new row is asked for.
CREATE TYPE step_v1 AS (
    kind text COLLATE "C", id text COLLATE "C", run_id text COLLATE "C", before_generation bigint, before_records bigint,
    generation bigint, records bigint, chain bytea, status smallint, updated_at bigint, due_at bigint, open_work bigint,
    parked_until bigint, state bytea, is_told boolean, changed bigint, changes run_v1, replaced_by run_v1, drop_below bigint,
    removes_if_idle boolean
);

CREATE TYPE record_v1 AS (
    run_id text COLLATE "C", generation bigint, record bigint, part bigint, data bytea, checksum bytea
);

CREATE TYPE generation_v1 AS (run_id text COLLATE "C", generation bigint);

CREATE TYPE task_v1 AS (
    kind text COLLATE "C", id text COLLATE "C", run_id text COLLATE "C", generation bigint, task_id bigint
);

CREATE TYPE activity_v1 AS (
    kind text COLLATE "C", id text COLLATE "C", run_id text COLLATE "C", generation bigint, task_id bigint,
    partition bigint, queue text COLLATE "C", name text COLLATE "C", version text COLLATE "C", data bytea, priority bigint,
    visible_at bigint, start_by bigint, deliveries bigint, first_claimed_at bigint, heartbeat bytea
);
