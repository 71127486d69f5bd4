-- Version 1: messages. What each expects of its target is judged under the lock of the target's row, in the transaction that
-- stores it. These functions are called by those of `commit`, `submit` and `report`.

-- A run as it leaves the database.
CREATE FUNCTION shown(r runs) RETURNS run_v1 LANGUAGE sql AS $$
    SELECT ROW(
        r.kind, r.id, r.partition, r.run_id, r.name, r.version, r.created_at, r.scheduled_at, r.updated_at, r.status,
        r.generation, r.records, r.chain, r.input, r.output, r.custom_status, r.failure, r.stall_reason, r.completed_at,
        r.parent_kind, r.parent_id, r.parent_run_id, r.parent_task, r.tags::text, r.due_at, r.open_work, r.parked_until,
        r.state, r.slow_turns, r.slow_since, NULL
    )::run_v1
$$;

CREATE FUNCTION shown(f former) RETURNS run_v1 LANGUAGE sql AS $$
    SELECT ROW(
        f.kind, f.id, f.partition, f.run_id, f.name, f.version, f.created_at, f.scheduled_at, f.updated_at, f.status,
        f.generation, f.records, f.chain, f.input, f.output, f.custom_status, f.failure, f.stall_reason, f.completed_at,
        f.parent_kind, f.parent_id, f.parent_run_id, f.parent_task, f.tags::text, f.due_at, f.open_work, f.parked_until,
        f.state, f.slow_turns, f.slow_since, NULL
    )::run_v1
$$;

-- Add a current run; return whether its id was free.
CREATE FUNCTION insert_run(r run_v1) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runs VALUES (
        r.kind, r.id, r.partition, r.run_id, r.name, r.version, r.created_at, r.scheduled_at, r.updated_at, r.status,
        r.generation, r.records, r.chain, r.input, r.output, r.custom_status, r.failure, r.stall_reason, r.completed_at,
        r.parent_kind, r.parent_id, r.parent_run_id, r.parent_task, r.tags::jsonb, r.due_at, r.open_work, r.parked_until,
        r.state, r.slow_turns, r.slow_since
    ) ON CONFLICT (kind, id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF r.tag_hashes IS NOT NULL THEN
        INSERT INTO tags (tag, kind, id) SELECT DISTINCT tag, r.kind, r.id FROM unnest(r.tag_hashes) AS tag;
    END IF;
    RETURN true;
END $$;

-- Keep a run that waits to take another's place.
CREATE FUNCTION insert_waiting(r run_v1) RETURNS void LANGUAGE sql AS $$
    INSERT INTO former VALUES (
        nextval('former_numbers'), 2,
        r.kind, r.id, r.partition, r.run_id, r.name, r.version, r.created_at, r.scheduled_at, r.updated_at, r.status,
        r.generation, r.records, r.chain, r.input, r.output, r.custom_status, r.failure, r.stall_reason, r.completed_at,
        r.parent_kind, r.parent_id, r.parent_run_id, r.parent_task, r.tags::jsonb, r.due_at, r.open_work, r.parked_until,
        r.state, r.slow_turns, r.slow_since
    )
$$;

-- Put a run in the place of a current one, whose row the caller has locked and which is kept as an ended one, unless it is that
-- very run, which goes on. In place, so that whoever waits for the lock finds a row.
CREATE FUNCTION replace_run(r run_v1) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO former SELECT nextval('former_numbers'), 1, runs.* FROM runs
    WHERE kind = r.kind AND id = r.id AND run_id <> r.run_id;
    UPDATE runs SET
        run_id = r.run_id, name = r.name, version = r.version, created_at = r.created_at, scheduled_at = r.scheduled_at,
        updated_at = r.updated_at, status = r.status, generation = r.generation, records = r.records, chain = r.chain,
        input = r.input, output = r.output, custom_status = r.custom_status, failure = r.failure,
        stall_reason = r.stall_reason, completed_at = r.completed_at, parent_kind = r.parent_kind,
        parent_id = r.parent_id, parent_run_id = r.parent_run_id, parent_task = r.parent_task, tags = r.tags::jsonb,
        due_at = r.due_at, open_work = r.open_work, parked_until = r.parked_until, state = r.state,
        slow_turns = r.slow_turns, slow_since = r.slow_since
    WHERE kind = r.kind AND id = r.id;
    DELETE FROM tags WHERE kind = r.kind AND id = r.id;
    IF r.tag_hashes IS NOT NULL THEN
        INSERT INTO tags (tag, kind, id) SELECT DISTINCT tag, r.kind, r.id FROM unnest(r.tag_hashes) AS tag;
    END IF;
END $$;

-- Remove a run's history and its memos.
CREATE FUNCTION remove_run(p_run_id text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM history WHERE run_id = p_run_id;
    DELETE FROM memos WHERE key >= 'run/' || p_run_id || '/' AND key < 'run/' || p_run_id || '0'; -- `0` follows `/`
$$;

-- Remove the ended runs of an instance up to this one.
CREATE FUNCTION remove_former(p_kind text, p_id text, p_last_number bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        DELETE FROM former WHERE kind = p_kind AND id = p_id AND place = 1 AND number <= p_last_number RETURNING run_id
    LOOP
        PERFORM remove_run(gone.run_id);
    END LOOP;
END $$;

-- Remove an instance, whose row the caller has locked, with all its runs; not the messages for it.
CREATE FUNCTION remove_instance(p_kind text, p_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    DELETE FROM runs WHERE kind = p_kind AND id = p_id RETURNING run_id INTO gone;
    PERFORM remove_run(gone.run_id);
    DELETE FROM tags WHERE kind = p_kind AND id = p_id;
    PERFORM remove_former(p_kind, p_id, 9223372036854775807);
END $$;

-- A run wherever it is: the current one of its instance, ended, or waiting.
CREATE FUNCTION find_run(p_kind text, p_id text, p_run_id text) RETURNS run_v1 STABLE LANGUAGE sql AS $$
    SELECT shown(r) FROM runs r WHERE r.kind = p_kind AND r.id = p_id AND r.run_id = p_run_id
    UNION ALL SELECT shown(f) FROM former f WHERE f.kind = p_kind AND f.id = p_id AND f.run_id = p_run_id
    LIMIT 1
$$;

-- Take the messages of a parked instance out of the way.
CREATE FUNCTION park(p_partition bigint, p_kind text, p_id text) RETURNS void LANGUAGE sql AS $$
    WITH moved AS (
        DELETE FROM inbox WHERE partition = p_partition AND kind = p_kind AND id = p_id AND priority = 1 RETURNING *
    )
    INSERT INTO inbox_later SELECT moved.*, true FROM moved;
    UPDATE inbox_later SET is_parked = true WHERE kind = p_kind AND id = p_id AND NOT is_parked AND priority = 1;
$$;

-- Make the messages of an instance that is no longer parked eligible: at once, or when they are due.
CREATE FUNCTION unpark(p_kind text, p_id text, p_now bigint) RETURNS void LANGUAGE sql AS $$
    WITH moved AS (
        DELETE FROM inbox_later WHERE kind = p_kind AND id = p_id AND is_parked AND visible_at <= p_now RETURNING *
    )
    INSERT INTO inbox
    SELECT partition, sequence, priority, visible_at, kind, id, run_id, start_run_id, data FROM moved;
    UPDATE inbox_later SET is_parked = false WHERE kind = p_kind AND id = p_id AND is_parked;
$$;

CREATE FUNCTION store_message(m message_v1, p_sequence bigint, p_parked_until bigint, p_now bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF (p_parked_until > 0 AND m.priority = 1) OR m.visible_at > p_now THEN
        INSERT INTO inbox_later VALUES (
            m.partition, p_sequence, m.priority, m.visible_at, m.kind, m.id, m.run_id, (m.start).run_id, m.data,
            p_parked_until > 0 AND m.priority = 1
        );
    ELSE
        INSERT INTO inbox VALUES (
            m.partition, p_sequence, m.priority, m.visible_at, m.kind, m.id, m.run_id, (m.start).run_id, m.data
        );
    END IF;
END $$;

-- Store an event if its target's current run is unfinished (and is the one that the event names). Return the verdict.
CREATE FUNCTION deliver_event(m message_v1, p_sequence bigint, p_now bigint) RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    target record;
BEGIN
    SELECT run_id, status, parked_until INTO target FROM runs WHERE kind = m.kind AND id = m.id FOR SHARE;
    IF NOT FOUND THEN
        RETURN 1;
    END IF;
    IF m.run_id IS NOT NULL AND m.run_id <> target.run_id THEN
        IF NOT EXISTS (
            SELECT 1 FROM former WHERE kind = m.kind AND id = m.id AND run_id = m.run_id AND place = 2
        ) THEN
            RETURN 2;
        END IF;
    ELSIF target.status >= 4 THEN
        RETURN 2;
    END IF;
    PERFORM store_message(m, p_sequence, target.parked_until, p_now);
    RETURN 0;
END $$;

-- Put the run that a start brings in place of the current one, which has ended; its row is locked.
CREATE FUNCTION replace_finished(m message_v1, p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM replace_run(m.start);
    -- What was sent to the run before and not consumed waits as this one does.
    IF (m.start).parked_until > 0 THEN
        PERFORM park(m.partition, m.kind, m.id);
    ELSE
        PERFORM unpark(m.kind, m.id, p_now);
    END IF;
END $$;

-- Begin a run where its id is free, or as far as the message may in place of another. Return the verdict; 8: stored, to wait
-- until the owner of the current run lets it take that one's place.
CREATE FUNCTION deliver_start(m message_v1, p_sequence bigint, p_now bigint) RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    target record;
BEGIN
    LOOP
        IF m.expects = 1 THEN
            SELECT status, parked_until, parent_run_id, parent_task INTO target
            FROM runs WHERE kind = m.kind AND id = m.id;
        ELSE
            SELECT status, parked_until, parent_run_id, parent_task INTO target
            FROM runs WHERE kind = m.kind AND id = m.id FOR UPDATE;
        END IF;
        IF FOUND THEN
            EXIT;
        ELSIF (m.start).run_id IS NULL THEN
            PERFORM store_message(m, p_sequence, 0, p_now);
            RETURN 0;
        ELSIF insert_run(m.start) THEN
            PERFORM store_message(m, p_sequence, (m.start).parked_until, p_now);
            RETURN 0;
        END IF; -- else somebody has just begun a run of this id: look again
    END LOOP;
    IF m.expects = 1 THEN
        IF (m.start).parent_run_id = target.parent_run_id AND (m.start).parent_task = target.parent_task THEN
            RETURN 4;
        END IF;
        RETURN 3;
    ELSIF (m.start).run_id IS NULL THEN
        PERFORM store_message(m, p_sequence, target.parked_until, p_now);
    ELSIF target.status >= 4 THEN
        PERFORM replace_finished(m, p_now);
        PERFORM store_message(m, p_sequence, (m.start).parked_until, p_now);
    ELSIF m.expects = 2 THEN
        RETURN 3;
    ELSE
        PERFORM insert_waiting(m.start);
        m.priority := 0;
        PERFORM store_message(m, p_sequence, 0, p_now);
        RETURN 8;
    END IF;
    RETURN 0;
END $$;

-- Let a run go on that has ended, in an earlier generation. Return the verdict.
CREATE FUNCTION deliver_going_on(m message_v1, p_sequence bigint, p_now bigint) RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    target record;
BEGIN
    SELECT run_id, status, generation INTO target FROM runs WHERE kind = m.kind AND id = m.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    ELSIF target.run_id <> (m.start).run_id OR target.status < 4 OR target.generation >= (m.start).generation THEN
        RETURN 3;
    END IF;
    PERFORM replace_finished(m, p_now);
    PERFORM store_message(m, p_sequence, (m.start).parked_until, p_now);
    RETURN 0;
END $$;

CREATE FUNCTION deliver_one(m message_v1, p_sequence bigint, p_now bigint) RETURNS smallint LANGUAGE plpgsql AS $$
BEGIN
    IF m.expects = 0 THEN
        RETURN deliver_event(m, p_sequence, p_now);
    ELSIF m.expects = 4 THEN
        RETURN deliver_going_on(m, p_sequence, p_now);
    END IF;
    RETURN deliver_start(m, p_sequence, p_now);
END $$;

CREATE FUNCTION write_memo(p_key text, p_data bytea, p_expires_at bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO memos (key, data, expires_at) VALUES (p_key, p_data, p_expires_at)
    ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at
$$;

-- Store messages, each on its own verdict; numbered in their order, and locked in the order of their targets.
-- `ways`: the rows that are in the way of those at `way_places`.
CREATE FUNCTION deliver(
    p_messages message_v1[], p_others message_v1[], p_memos memo_v1[], p_now bigint,
    OUT verdicts smallint[], OUT sequences bigint[], OUT way_places bigint[], OUT ways run_v1[]
) LANGUAGE plpgsql AS $$
DECLARE
    item record;
    m message_v1;
    numbers bigint[];
    verdict smallint;
    sequence bigint;
    way run_v1;
BEGIN
    verdicts := array_fill(0::smallint, ARRAY[cardinality(p_messages)]);
    sequences := array_fill(0::bigint, ARRAY[cardinality(p_messages)]);
    numbers := ARRAY(SELECT nextval('message_numbers') FROM generate_series(1, cardinality(p_messages)));
    FOR item IN
        SELECT place, kind, id, partition, refused, other_refused, other_message, other_memo, in_place_of,
            ROW(
                kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused,
                other_message, other_memo, in_place_of
            )::message_v1 AS message
        FROM unnest(p_messages) WITH ORDINALITY AS u (
            kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused,
            other_message, other_memo, in_place_of, place
        ) ORDER BY kind COLLATE "C", id COLLATE "C", place
    LOOP
        sequence := coalesce(item.in_place_of, numbers[item.place] * 65536 + item.partition);
        verdict := coalesce(item.refused, deliver_one(item.message, sequence, p_now));
        IF verdict IN (0, 8) THEN
            sequences[item.place] := sequence;
        ELSIF verdict <> 4 THEN
            IF item.other_refused IS NOT NULL THEN
                verdict := item.other_refused;
            ELSIF item.other_message IS NOT NULL THEN
                m := p_others[item.other_message];
                PERFORM deliver_one(m, numbers[item.place] * 65536 + m.partition, p_now);
            ELSIF item.other_memo IS NOT NULL THEN
                PERFORM write_memo(
                    p_memos[item.other_memo].key, p_memos[item.other_memo].data, p_memos[item.other_memo].expires_at
                );
            END IF;
        END IF;
        verdicts[item.place] := verdict;
        IF verdict IN (2, 3, 4) THEN
            way := (SELECT shown(r) FROM runs r WHERE r.kind = item.kind AND r.id = item.id);
            IF way.run_id IS NOT NULL THEN
                way_places := way_places || item.place;
                ways := ways || way;
            END IF;
        END IF;
    END LOOP;
END $$;
