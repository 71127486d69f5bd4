-- Version 3: a commit in fewer statements. On a server that has the rows in memory a statement costs more than what it writes.
--
-- What the former body of `commit_v1` called, `fence`, `write_steps` and `update_runs`, stays: a commit that waits for this
-- migration to end goes on in that body.

-- Why a lease that is locked may not write this batch, as an error; nothing where it has written it.
CREATE FUNCTION refuse_batch(p_lease text, p_epoch bigint, p_number bigint, p_last_epoch bigint, p_last_number bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_last_epoch IS DISTINCT FROM p_epoch THEN
        PERFORM lease_lost(p_lease);
    ELSIF p_number < p_last_number THEN
        RAISE EXCEPTION 'batch % is older than %, the last one: its answer is gone', p_number, p_last_number
        USING ERRCODE = 'DU002';
    END IF;
END $$;

-- What steps ask for besides their rows and records; the rows are written. `p_is_rare`: they change rare columns, replace or
-- remove their runs, or drop generations.
CREATE FUNCTION write_rare(p_steps step_v1[], p_dropped generation_v1[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM update_rare_columns(p_steps);
    DELETE FROM history h USING unnest(p_steps) AS u WHERE h.run_id = u.run_id AND h.generation < u.drop_below;
    DELETE FROM history h USING unnest(p_dropped) AS d WHERE h.run_id = d.run_id AND h.generation = d.generation;
END $$;

-- Move the messages of instances that are parked now, and were not, out of the way.
CREATE FUNCTION park_steps(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    FOR s IN SELECT u.kind, u.id, r.partition FROM unnest(p_steps) AS u JOIN runs r ON r.kind = u.kind AND r.id = u.id LOOP
        PERFORM park(s.partition, s.kind, s.id);
    END LOOP;
END $$;

-- Bring back the messages of instances that are no longer parked.
CREATE FUNCTION unpark_steps(p_steps step_v1[], p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    FOR s IN SELECT DISTINCT u.kind, u.id FROM unnest(p_steps) AS u JOIN inbox_later l ON l.kind = u.kind AND l.id = u.id
        WHERE l.is_parked AND coalesce((u.replaced_by).parked_until, u.parked_until) = 0
    LOOP
        PERFORM unpark(s.kind, s.id, p_now);
    END LOOP;
END $$;

-- One group commit: fence, steps, messages, memos. `told`: the rows of the steps that ask for it, as they are now; they ask for
-- it only where `p_is_told`; where that is null, they change no further columns either.
--
-- The lease's row is locked before the hub's clock is read, in a statement of its own: the next one sees what whoever had it
-- locked has written. For the same reason messages that are parked are looked for after the runs are locked.
CREATE OR REPLACE FUNCTION commit_v1(
    p_lease text, p_epoch bigint, p_number bigint, p_partitions bigint[], p_steps step_v1[], p_records record_v1[],
    p_consumed bigint[], p_dropped generation_v1[], p_queue_drops task_v1[], p_queue_adds activity_v1[], p_parks boolean,
    p_is_rare boolean, p_is_told boolean, p_messages message_v1[], p_others message_v1[], p_other_memos memo_v1[],
    p_memos memo_v1[], p_span bigint, p_at bigint,
    OUT now bigint, OUT is_repeated boolean, OUT told run_v1[], OUT verdicts smallint[], OUT sequences bigint[],
    OUT way_places bigint[], OUT ways run_v1[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    last_epoch bigint;
    last_number bigint;
    has_strangers boolean;
    written bigint;
    has_ended boolean;
    newly_parked step_v1[];
    d record;
BEGIN
    SELECT epoch, commit_number INTO last_epoch, last_number FROM leases WHERE lease_id = p_lease FOR NO KEY UPDATE;
    is_repeated := last_epoch IS DISTINCT FROM p_epoch OR p_number <= last_number;
    IF is_repeated THEN
        PERFORM refuse_batch(p_lease, p_epoch, p_number, last_epoch, last_number);
        SELECT committed_at, commit_verdicts, commit_sequences INTO now, verdicts, sequences
        FROM leases WHERE lease_id = p_lease;
        RETURN;
    END IF;
    UPDATE leases SET expires_at = h.at + p_span, commit_number = p_number, committed_at = h.at, commit_verdicts = NULL,
        commit_sequences = NULL
    FROM (SELECT clock_us(p_at) + clock_correction AS at FROM hub WHERE only_one) AS h WHERE lease_id = p_lease
    RETURNING committed_at, EXISTS (
        SELECT 1 FROM unnest(p_partitions) AS u LEFT JOIN partitions p ON p.partition = u
        WHERE p.lease_id IS DISTINCT FROM p_lease
    ) INTO now, has_strangers;
    IF has_strangers THEN
        RAISE EXCEPTION 'a partition of this batch is not the lease''s; nothing was written' USING ERRCODE = 'DU001';
    END IF;
    IF cardinality(p_steps) > 0 THEN
        IF cardinality(p_messages) > 0 THEN
            PERFORM lock_runs(p_steps, p_messages);
        END IF;
        IF p_parks THEN
            newly_parked := ARRAY(
                SELECT u FROM unnest(p_steps) AS u JOIN runs r ON r.kind = u.kind AND r.id = u.id
                WHERE u.parked_until > 0 AND r.parked_until = 0
            );
        END IF;
        IF p_is_told IS NULL THEN
            UPDATE runs r SET
                generation = s.generation, records = s.records, chain = s.chain, status = s.status,
                updated_at = s.updated_at, due_at = s.due_at, open_work = s.open_work, parked_until = s.parked_until,
                state = s.state, slow_turns = 0, slow_since = 0
            FROM unnest(p_steps) AS s
            WHERE r.kind = s.kind AND r.id = s.id AND r.run_id = s.run_id AND r.generation = s.before_generation
                AND r.records = s.before_records AND r.status::int < 4; -- cast: no index by status comes into question
            GET DIAGNOSTICS written = ROW_COUNT;
            INSERT INTO history SELECT u.* FROM unnest(p_records) AS u WHERE written = cardinality(p_steps);
        ELSE
            -- Records only if every run is as the batch expects it: else one may be there already.
            WITH moved AS (
                UPDATE runs r SET
                    generation = s.generation, records = s.records, chain = s.chain, status = s.status,
                    updated_at = s.updated_at, due_at = s.due_at, open_work = s.open_work, parked_until = s.parked_until,
                    state = s.state, slow_turns = 0, slow_since = 0,
                    output = CASE WHEN s.changed & 16384 <> 0 THEN (s.changes).output ELSE r.output END,
                    custom_status = CASE WHEN s.changed & 32768 <> 0 THEN (s.changes).custom_status ELSE r.custom_status END,
                    failure = CASE WHEN s.changed & 65536 <> 0 THEN (s.changes).failure ELSE r.failure END,
                    stall_reason = CASE WHEN s.changed & 131072 <> 0 THEN (s.changes).stall_reason ELSE r.stall_reason END,
                    completed_at = CASE WHEN s.changed & 262144 <> 0 THEN (s.changes).completed_at ELSE r.completed_at END
                FROM unnest(p_steps) AS s
                WHERE r.kind = s.kind AND r.id = s.id AND r.run_id = s.run_id AND r.generation = s.before_generation
                    AND r.records = s.before_records AND r.status::int < 4 -- cast: no index by status comes into question
                RETURNING s.status >= 4 AS has_ended, s.is_told, CASE WHEN s.is_told THEN shown(r) END AS run
            ), recorded AS (
                INSERT INTO history SELECT u.* FROM unnest(p_records) AS u
                WHERE (SELECT count(*) FROM moved) = cardinality(p_steps)
            )
            SELECT count(*), bool_or(moved.has_ended), array_agg(moved.run) FILTER (WHERE moved.is_told)
            INTO written, has_ended, told FROM moved;
        END IF;
        IF written <> cardinality(p_steps) THEN
            RAISE EXCEPTION 'one of % instances was written by somebody else, or has ended; nothing was written',
                cardinality(p_steps) USING ERRCODE = 'DU001';
        END IF;
        IF cardinality(p_consumed) > 0 THEN
            PERFORM consume(p_consumed);
        END IF;
        IF has_ended OR cardinality(p_queue_drops) > 0 OR cardinality(p_queue_adds) > 0 THEN
            PERFORM change_queue(p_steps, p_queue_drops, p_queue_adds);
        END IF;
        IF p_is_rare THEN
            PERFORM write_rare(p_steps, p_dropped);
        END IF;
        IF p_parks THEN
            PERFORM park_steps(newly_parked);
        END IF;
        IF EXISTS (SELECT 1 FROM inbox_later WHERE is_parked) THEN
            PERFORM unpark_steps(p_steps, now);
        END IF;
        IF p_is_rare THEN
            told := ARRAY(
                SELECT shown(r) FROM unnest(p_steps) AS s JOIN runs r ON r.kind = s.kind AND r.id = s.id WHERE s.is_told
            );
            PERFORM replace_runs(p_steps);
            PERFORM remove_idle(p_steps);
        END IF;
    ELSIF cardinality(p_consumed) > 0 THEN
        PERFORM consume(p_consumed);
    END IF;
    IF cardinality(p_messages) > 0 THEN
        SELECT * INTO d FROM deliver(p_messages, p_others, p_other_memos, now);
        verdicts := d.verdicts; sequences := d.sequences; way_places := d.way_places; ways := d.ways;
        UPDATE leases SET commit_verdicts = d.verdicts, commit_sequences = d.sequences WHERE lease_id = p_lease;
    END IF;
    IF cardinality(p_memos) > 0 THEN
        INSERT INTO memos (key, data, expires_at) SELECT m.* FROM unnest(p_memos) AS m ORDER BY m.key COLLATE "C"
        ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at;
    END IF;
END $$;
