-- Version 1: what a partition's owner reads and writes.

-- Unfinished instances of these partitions, as far as the lease owns them, that have something for a new owner to do.
CREATE FUNCTION recover_v1(p_lease text, p_epoch bigint, p_partitions bigint[])
RETURNS TABLE (kind text, id text) STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT r.kind, r.id
        FROM leases l JOIN partitions p ON p.lease_id = l.lease_id JOIN runs r ON r.partition = p.partition
        WHERE l.lease_id = p_lease AND l.epoch = p_epoch AND p.partition = ANY (p_partitions)
        AND r.status < 4 AND (r.open_work > 0 OR r.status = 3 OR r.slow_turns > 0);
END $$;

-- The rows of runs: of each target's current one, or of that run wherever it is.
CREATE FUNCTION load_v1(p_kinds text[], p_ids text[], p_run_ids text[])
RETURNS TABLE (place bigint, run run_v1) STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT u.place, CASE WHEN r.run_id IS NOT NULL THEN shown(r) ELSE shown(f) END
        FROM unnest(p_kinds, p_ids, p_run_ids) WITH ORDINALITY AS u (kind, id, run_id, place)
        LEFT JOIN runs r ON r.kind = u.kind AND r.id = u.id AND (u.run_id IS NULL OR r.run_id = u.run_id)
        LEFT JOIN former f ON f.kind = u.kind AND f.id = u.id AND f.run_id = u.run_id
        WHERE r.run_id IS NOT NULL OR f.run_id IS NOT NULL;
END $$;

-- Up to `p_limit` sequences of eligible messages in the order in which they are received, without those that are held.
-- `p_enough`: the limit and as many more as are held.
CREATE FUNCTION eligible(
    p_owned bigint[], p_held bigint[], p_limit bigint, p_enough bigint, p_now bigint
) RETURNS bigint[] STABLE LANGUAGE plpgsql AS $$
DECLARE
    control bigint[];
    normal bigint[];
    delayed bigint[];
    found bigint[];
BEGIN
    control := ARRAY(
        SELECT sequence FROM inbox WHERE priority = 0 AND partition = ANY (p_owned) ORDER BY sequence LIMIT p_enough
    );
    normal := ARRAY(
        SELECT i.sequence FROM unnest(p_owned) AS own (partition) CROSS JOIN LATERAL (
            SELECT sequence FROM inbox WHERE partition = own.partition AND priority = 1 ORDER BY sequence LIMIT p_enough
        ) i ORDER BY i.sequence LIMIT p_enough
    );
    IF NOT EXISTS (SELECT 1 FROM inbox_later WHERE NOT is_parked AND visible_at <= p_now)
        AND NOT EXISTS (SELECT 1 FROM runs WHERE parked_until > 0 AND parked_until <= p_now)
    THEN
        IF p_held <> '{}' THEN
            control := ARRAY(SELECT unnest(control) EXCEPT SELECT unnest(p_held) ORDER BY 1);
            normal := ARRAY(SELECT unnest(normal) EXCEPT SELECT unnest(p_held) ORDER BY 1);
        END IF;
        RETURN (control || normal)[:p_limit];
    END IF;
    delayed := ARRAY(
        SELECT sequence FROM inbox_later WHERE NOT is_parked AND visible_at <= p_now AND partition = ANY (p_owned)
        ORDER BY visible_at LIMIT p_enough
    );
    -- Driven by the instances whose time has come, not by the messages that wait for others.
    found := ARRAY(
        SELECT l.sequence FROM runs r JOIN inbox_later l ON l.kind = r.kind AND l.id = r.id
        WHERE r.parked_until > 0 AND r.parked_until <= p_now AND l.is_parked AND l.visible_at <= p_now
        AND l.partition = ANY (p_owned) ORDER BY r.parked_until, l.sequence LIMIT p_enough
    ) || delayed;
    IF cardinality(delayed) = p_enough THEN
        -- What was delayed comes by its time: an earlier message of the same instance may still be among the rest.
        found := found || ARRAY(
            SELECT l.sequence FROM (
                SELECT DISTINCT kind, id FROM (
                    SELECT kind, id FROM inbox_later WHERE sequence = ANY (found) AND partition = ANY (p_owned)
                    UNION ALL
                    SELECT kind, id FROM inbox WHERE sequence = ANY (normal) AND partition = ANY (p_owned)
                ) AS target
            ) AS target JOIN inbox_later l ON l.kind = target.kind AND l.id = target.id
            WHERE NOT l.is_parked AND l.visible_at <= p_now
        );
    END IF;
    RETURN ARRAY(
        SELECT candidate.sequence FROM (
            (SELECT unnest(control || normal || found) AS sequence EXCEPT SELECT unnest(p_held))
        ) AS candidate LEFT JOIN inbox_later l
            ON l.partition = candidate.sequence & 65535 AND l.sequence = candidate.sequence
        ORDER BY CASE WHEN candidate.sequence = ANY (control) OR l.priority = 0 THEN 0 ELSE 1 END, candidate.sequence
        LIMIT p_limit
    );
END $$;

-- One row with the time and the instances that become due (`what` 0), then one for each eligible message (`what` 1), then for
-- each attempt that nobody serves (`what` 2; `p_served_queues` null: not asked for).
CREATE FUNCTION receive_v1(
    p_lease text, p_epoch bigint, p_held bigint[], p_limit bigint, p_due_after bigint, p_due_before bigint, p_at bigint
) RETURNS TABLE (
    now bigint, due_kinds text[], due_ids text[], due_times bigint[], sequence bigint, kind text, id text, partition bigint,
    data bytea, priority smallint, visible_at bigint, run_id text, start run_v1
) STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at bigint := now_us(p_at);
    owned bigint[];
    found bigint[];
    last_due bigint := p_due_before;
BEGIN
    owned := ARRAY(
        SELECT p.partition FROM leases l JOIN partitions p ON p.lease_id = l.lease_id
        WHERE l.lease_id = p_lease AND l.epoch = p_epoch
    );
    IF p_due_before > p_due_after AND owned <> '{}' THEN
        SELECT r.due_at INTO last_due FROM runs r
        WHERE r.status < 4 AND r.due_at > p_due_after AND r.due_at <= p_due_before AND r.partition = ANY (owned)
        ORDER BY r.due_at OFFSET greatest(p_limit - 1, 0) LIMIT 1;
        SELECT array_agg(r.kind), array_agg(r.id), array_agg(r.due_at) INTO due_kinds, due_ids, due_times FROM (
            SELECT r.kind, r.id, r.due_at FROM runs r
            WHERE r.status < 4 AND r.due_at > p_due_after AND r.due_at <= coalesce(last_due, p_due_before)
            AND r.partition = ANY (owned) ORDER BY r.due_at
        ) AS r;
    END IF;
    RETURN QUERY SELECT at, due_kinds, due_ids, due_times, NULL::bigint, NULL, NULL, NULL::bigint, NULL::bytea,
        NULL::smallint, NULL::bigint, NULL, NULL::run_v1;
    found := eligible(owned, p_held, p_limit, p_limit + cardinality(p_held), at);
    IF found <> '{}' THEN
        RETURN QUERY
            SELECT NULL::bigint, NULL::text[], NULL::text[], NULL::bigint[], u.sequence, m.kind, m.id, m.partition, m.data,
                m.priority, m.visible_at, m.run_id,
                CASE WHEN m.start_run_id IS NULL THEN NULL ELSE find_run(m.kind, m.id, m.start_run_id) END
            FROM unnest(found) WITH ORDINALITY AS u (sequence, place) CROSS JOIN LATERAL (
                SELECT i.kind, i.id, i.partition, i.data, i.priority, i.visible_at, i.run_id, i.start_run_id
                FROM inbox i WHERE i.partition = u.sequence & 65535 AND i.sequence = u.sequence
                UNION ALL
                SELECT l.kind, l.id, l.partition, l.data, l.priority, l.visible_at, l.run_id, l.start_run_id
                FROM inbox_later l WHERE l.partition = u.sequence & 65535 AND l.sequence = u.sequence
            ) AS m ORDER BY u.place;
    END IF;
END $$;

-- Delete messages, and the rows of runs that waited in them.
CREATE FUNCTION consume(p_sequences bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    missing bigint;
    started text[];
    more text[];
BEGIN
    WITH gone AS (
        DELETE FROM inbox USING unnest(p_sequences) AS s
        WHERE inbox.partition = s & 65535 AND inbox.sequence = s RETURNING inbox.start_run_id
    ) SELECT cardinality(p_sequences) - count(*), array_agg(start_run_id) FILTER (WHERE start_run_id IS NOT NULL)
    INTO missing, started FROM gone;
    IF missing > 0 THEN
        WITH gone AS (
            DELETE FROM inbox_later l USING unnest(p_sequences) AS s
            WHERE l.partition = s & 65535 AND l.sequence = s RETURNING l.start_run_id
        ) SELECT array_agg(start_run_id) INTO more FROM gone WHERE start_run_id IS NOT NULL;
        started := started || more;
    END IF;
    IF started IS NOT NULL AND EXISTS (SELECT 1 FROM former WHERE place = 2) THEN
        DELETE FROM former WHERE place = 2 AND run_id = ANY (started);
    END IF;
END $$;

-- Lock what a batch with messages touches, in the one order in which everybody locks runs.
CREATE FUNCTION lock_runs(p_steps step_v1[], p_messages message_v1[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mine.locked, others.locked FROM (
        SELECT kind, id, bool_or(is_mine) AS is_mine FROM (
            SELECT s.kind, s.id, true AS is_mine FROM unnest(p_steps) AS s
            UNION ALL SELECT m.kind, m.id, false FROM unnest(p_messages) AS m WHERE m.expects = 0
        ) AS place GROUP BY kind, id ORDER BY kind COLLATE "C", id COLLATE "C"
    ) AS place LEFT JOIN LATERAL (
        SELECT true AS locked FROM runs r
        WHERE place.is_mine AND r.kind = place.kind AND r.id = place.id FOR NO KEY UPDATE
    ) AS mine ON true LEFT JOIN LATERAL (
        SELECT true AS locked FROM runs r
        WHERE NOT place.is_mine AND r.kind = place.kind AND r.id = place.id FOR SHARE
    ) AS others ON true;
END $$;

-- Update the rows of the runs that a batch moves on. Every one must be as the batch expects it.
CREATE FUNCTION update_runs(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    UPDATE runs r SET
        generation = s.generation, records = s.records, chain = s.chain, status = s.status, updated_at = s.updated_at,
        due_at = s.due_at, open_work = s.open_work, parked_until = s.parked_until, state = s.state, slow_turns = 0,
        slow_since = 0,
        output = CASE WHEN s.changed & 16384 <> 0 THEN (s.changes).output ELSE r.output END,
        custom_status = CASE WHEN s.changed & 32768 <> 0 THEN (s.changes).custom_status ELSE r.custom_status END,
        failure = CASE WHEN s.changed & 65536 <> 0 THEN (s.changes).failure ELSE r.failure END,
        stall_reason = CASE WHEN s.changed & 131072 <> 0 THEN (s.changes).stall_reason ELSE r.stall_reason END,
        completed_at = CASE WHEN s.changed & 262144 <> 0 THEN (s.changes).completed_at ELSE r.completed_at END
    FROM unnest(p_steps) AS s
    WHERE r.kind = s.kind AND r.id = s.id AND r.run_id = s.run_id AND r.generation = s.before_generation
        AND r.records = s.before_records AND r.status < 4;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written <> cardinality(p_steps) THEN
        RAISE EXCEPTION 'one of % instances was written by somebody else, or has ended; nothing was written',
            cardinality(p_steps) USING ERRCODE = 'DU001';
    END IF;
END $$;

-- The columns that a turn hardly ever changes. The rows are locked and known to be as expected.
CREATE FUNCTION update_rare_columns(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE runs r SET
        name = CASE WHEN s.changed & 16 <> 0 THEN (s.changes).name ELSE r.name END,
        version = CASE WHEN s.changed & 32 <> 0 THEN (s.changes).version ELSE r.version END,
        created_at = CASE WHEN s.changed & 64 <> 0 THEN (s.changes).created_at ELSE r.created_at END,
        scheduled_at = CASE WHEN s.changed & 128 <> 0 THEN (s.changes).scheduled_at ELSE r.scheduled_at END,
        input = CASE WHEN s.changed & 8192 <> 0 THEN (s.changes).input ELSE r.input END,
        parent_kind = CASE WHEN s.changed & 524288 <> 0 THEN (s.changes).parent_kind ELSE r.parent_kind END,
        parent_id = CASE WHEN s.changed & 1048576 <> 0 THEN (s.changes).parent_id ELSE r.parent_id END,
        parent_run_id = CASE WHEN s.changed & 2097152 <> 0 THEN (s.changes).parent_run_id ELSE r.parent_run_id END,
        parent_task = CASE WHEN s.changed & 4194304 <> 0 THEN (s.changes).parent_task ELSE r.parent_task END,
        tags = CASE WHEN s.changed & 8388608 <> 0 THEN (s.changes).tags::jsonb ELSE r.tags END,
        slow_turns = CASE WHEN s.changed & 268435456 <> 0 THEN (s.changes).slow_turns ELSE r.slow_turns END,
        slow_since = CASE WHEN s.changed & 536870912 <> 0 THEN (s.changes).slow_since ELSE r.slow_since END
    FROM unnest(p_steps) AS s WHERE s.changed <> 0 AND r.kind = s.kind AND r.id = s.id;
    DELETE FROM tags USING unnest(p_steps) AS s
    WHERE s.changed & 8388608 <> 0 AND tags.kind = s.kind AND tags.id = s.id;
    INSERT INTO tags (tag, kind, id)
    SELECT DISTINCT tag, s.kind, s.id FROM unnest(p_steps) AS s CROSS JOIN unnest((s.changes).tag_hashes) AS tag
    WHERE s.changed & 8388608 <> 0;
END $$;

-- Let the runs that steps bring take the place of those that have just ended.
CREATE FUNCTION replace_runs(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
    replacing run_v1;
BEGIN
    FOR s IN SELECT * FROM unnest(p_steps) AS u WHERE (u.replaced_by).run_id IS NOT NULL LOOP
        replacing := s.replaced_by;
        PERFORM replace_run(replacing);
        IF replacing.parked_until > 0 THEN
            PERFORM park(replacing.partition, replacing.kind, replacing.id);
        END IF;
    END LOOP;
END $$;

-- Remove those instances whose steps say so, where no message waits for them any more.
CREATE FUNCTION remove_idle(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    FOR s IN
        SELECT r.kind, r.id FROM unnest(p_steps) AS u JOIN runs r ON r.kind = u.kind AND r.id = u.id
        WHERE u.removes_if_idle AND NOT EXISTS (
            SELECT 1 FROM inbox i WHERE i.partition = r.partition AND i.kind = r.kind AND i.id = r.id
        ) AND NOT EXISTS (SELECT 1 FROM inbox_later l WHERE l.kind = r.kind AND l.id = r.id)
    LOOP
        PERFORM remove_instance(s.kind, s.id);
    END LOOP;
END $$;

-- Change the activity queue: drops first; a run that has ended has no attempts any more.
CREATE FUNCTION change_queue(p_steps step_v1[], p_drops task_v1[], p_adds activity_v1[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_drops <> '{}' THEN
        DELETE FROM queue q USING unnest(p_drops) AS t WHERE q.kind = t.kind AND q.id = t.id
        AND q.run_id = t.run_id AND q.generation = t.generation AND q.task_id = t.task_id;
    END IF;
    DELETE FROM queue q USING unnest(p_steps) AS s
    WHERE s.status >= 4 AND q.kind = s.kind AND q.id = s.id AND q.run_id = s.run_id;
    IF p_adds <> '{}' THEN
        DELETE FROM queue q USING unnest(p_adds) AS t WHERE q.kind = t.kind AND q.id = t.id
        AND q.run_id = t.run_id AND q.generation = t.generation AND q.task_id = t.task_id;
        INSERT INTO queue (
            kind, id, run_id, generation, task_id, partition, queue, name, version, data, priority, visible_at, start_by,
            deliveries, first_claimed_at, heartbeat
        ) SELECT a.* FROM unnest(p_adds) AS a;
    END IF;
END $$;

-- Write the steps of a batch. `p_parks`: some of them are parked afterwards. `p_is_rare`: they change rare columns, replace or
-- remove their runs, or drop generations.
CREATE FUNCTION write_steps(
    p_steps step_v1[], p_records record_v1[], p_consumed bigint[], p_dropped generation_v1[], p_queue_drops task_v1[],
    p_queue_adds activity_v1[], p_parks boolean, p_is_rare boolean, p_now bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
    newly_parked step_v1[];
BEGIN
    IF p_parks THEN
        newly_parked := ARRAY(
            SELECT u FROM unnest(p_steps) AS u JOIN runs r ON r.kind = u.kind AND r.id = u.id
            WHERE u.parked_until > 0 AND r.parked_until = 0
        );
    END IF;
    PERFORM update_runs(p_steps);
    INSERT INTO history SELECT r.* FROM unnest(p_records) AS r;
    IF p_consumed <> '{}' THEN
        PERFORM consume(p_consumed);
    END IF;
    PERFORM change_queue(p_steps, p_queue_drops, p_queue_adds);
    IF p_is_rare THEN
        PERFORM update_rare_columns(p_steps);
        DELETE FROM history h USING unnest(p_steps) AS u WHERE h.run_id = u.run_id AND h.generation < u.drop_below;
        DELETE FROM history h USING unnest(p_dropped) AS d WHERE h.run_id = d.run_id AND h.generation = d.generation;
    END IF;
    IF p_parks THEN
        FOR s IN SELECT u.kind, u.id, r.partition FROM unnest(newly_parked) AS u
            JOIN runs r ON r.kind = u.kind AND r.id = u.id
        LOOP
            PERFORM park(s.partition, s.kind, s.id);
        END LOOP;
    END IF;
    IF EXISTS (SELECT 1 FROM inbox_later WHERE is_parked) THEN
        FOR s IN SELECT DISTINCT u.kind, u.id FROM unnest(p_steps) AS u JOIN inbox_later l
            ON l.kind = u.kind AND l.id = u.id
            WHERE l.is_parked AND coalesce((u.replaced_by).parked_until, u.parked_until) = 0
        LOOP
            PERFORM unpark(s.kind, s.id, p_now);
        END LOOP;
    END IF;
END $$;

-- The fence: lock the lease's row where the epoch matches, prolong it and number the batch. Return the store's time, or
-- null where the batch was written before. Then: are its partitions the lease's?
CREATE FUNCTION fence(
    p_lease text, p_epoch bigint, p_number bigint, p_partitions bigint[], p_span bigint, p_at bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    at bigint;
    found_epoch bigint;
    last_number bigint;
BEGIN
    SELECT epoch, commit_number INTO found_epoch, last_number FROM leases WHERE lease_id = p_lease FOR NO KEY UPDATE;
    IF found_epoch IS DISTINCT FROM p_epoch THEN
        PERFORM lease_lost(p_lease);
    ELSIF p_number = last_number THEN
        RETURN NULL;
    ELSIF p_number < last_number THEN
        RAISE EXCEPTION 'batch % is older than %, the last one: its answer is gone', p_number, last_number
        USING ERRCODE = 'DU002';
    END IF;
    at := now_us(p_at);
    UPDATE leases SET expires_at = at + p_span, commit_number = p_number, committed_at = at, commit_verdicts = NULL,
        commit_sequences = NULL WHERE lease_id = p_lease;
    IF (SELECT count(*) FROM partitions WHERE lease_id = p_lease AND partition = ANY (p_partitions))
        <> cardinality(p_partitions)
    THEN
        RAISE EXCEPTION 'a partition of this batch is not the lease''s; nothing was written' USING ERRCODE = 'DU001';
    END IF;
    RETURN at;
END $$;

-- One group commit: fence, steps, messages, memos. `told`: the rows of the steps that ask for it, as they are now.
CREATE FUNCTION commit_v1(
    p_lease text, p_epoch bigint, p_number bigint, p_partitions bigint[], p_steps step_v1[], p_records record_v1[],
    p_consumed bigint[], p_dropped generation_v1[], p_queue_drops task_v1[], p_queue_adds activity_v1[], p_parks boolean,
    p_is_rare boolean, p_is_told boolean, p_messages message_v1[], p_others message_v1[], p_other_memos memo_v1[],
    p_memos memo_v1[], p_span bigint, p_at bigint,
    OUT now bigint, OUT is_repeated boolean, OUT told run_v1[], OUT verdicts smallint[], OUT sequences bigint[],
    OUT way_places bigint[], OUT ways run_v1[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    d record;
BEGIN
    now := fence(p_lease, p_epoch, p_number, p_partitions, p_span, p_at);
    is_repeated := now IS NULL;
    IF is_repeated THEN
        SELECT committed_at, commit_verdicts, commit_sequences INTO now, verdicts, sequences
        FROM leases WHERE lease_id = p_lease;
        RETURN;
    END IF;
    IF p_messages <> '{}' AND p_steps <> '{}' THEN
        PERFORM lock_runs(p_steps, p_messages);
    END IF;
    IF p_steps <> '{}' THEN
        PERFORM write_steps(
            p_steps, p_records, p_consumed, p_dropped, p_queue_drops, p_queue_adds, p_parks, p_is_rare, now
        );
        IF p_is_told THEN
            told := ARRAY(
                SELECT shown(r) FROM unnest(p_steps) AS s JOIN runs r ON r.kind = s.kind AND r.id = s.id WHERE s.is_told
            );
        END IF;
        IF p_is_rare THEN
            PERFORM replace_runs(p_steps);
            PERFORM remove_idle(p_steps);
        END IF;
    ELSIF p_consumed <> '{}' THEN
        PERFORM consume(p_consumed);
    END IF;
    IF p_messages <> '{}' THEN
        SELECT * INTO d FROM deliver(p_messages, p_others, p_other_memos, now);
        verdicts := d.verdicts; sequences := d.sequences; way_places := d.way_places; ways := d.ways;
        UPDATE leases SET commit_verdicts = d.verdicts, commit_sequences = d.sequences WHERE lease_id = p_lease;
    END IF;
    IF p_memos <> '{}' THEN
        INSERT INTO memos (key, data, expires_at) SELECT m.* FROM unnest(p_memos) AS m ORDER BY m.key COLLATE "C"
        ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at;
    END IF;
END $$;

-- Note that a turn runs for long; return whether the lease may write for this unfinished run.
CREATE FUNCTION mark_slow_v1(
    p_lease text, p_epoch bigint, p_kind text, p_id text, p_run_id text, p_partition bigint, p_at bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM leases WHERE lease_id = p_lease AND epoch = p_epoch FOR SHARE;
    IF NOT FOUND OR NOT EXISTS (SELECT 1 FROM partitions WHERE partition = p_partition AND lease_id = p_lease) THEN
        RETURN false;
    END IF;
    UPDATE runs SET slow_turns = slow_turns + 1,
        slow_since = CASE slow_since WHEN 0 THEN now_us(p_at) ELSE slow_since END
    WHERE kind = p_kind AND id = p_id AND run_id = p_run_id AND status < 4;
    RETURN FOUND;
END $$;
