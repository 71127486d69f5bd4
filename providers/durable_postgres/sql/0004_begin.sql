-- Version 4: a commit in which runs begin that were not stored before, as their first step leaves them.

-- Of the last batch in which runs were to begin: those that were left out, for their ids were in use. For a batch that comes again.
ALTER TABLE leases ADD COLUMN commit_left_out text[];

-- Add current runs whose ids are free; return their run ids. In the order of their keys, in which everybody locks.
CREATE FUNCTION insert_runs(p_runs run_v1[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r run_v1;
    begun text[] := '{}';
BEGIN
    IF EXISTS (SELECT 1 FROM unnest(p_runs) WHERE tags IS NOT NULL) THEN
        FOR r IN SELECT u.* FROM unnest(p_runs) AS u ORDER BY u.kind COLLATE "C", u.id COLLATE "C" LOOP
            IF insert_run(r) THEN
                begun := begun || r.run_id;
            END IF;
        END LOOP;
        RETURN begun;
    END IF;
    WITH put AS (
        INSERT INTO runs
        SELECT
            u.kind, u.id, u.partition, u.run_id, u.name, u.version, u.created_at, u.scheduled_at, u.updated_at, u.status,
            u.generation, u.records, u.chain, u.input, u.output, u.custom_status, u.failure, u.stall_reason, u.completed_at,
            u.parent_kind, u.parent_id, u.parent_run_id, u.parent_task, NULL, u.due_at, u.open_work, u.parked_until, u.state,
            u.slow_turns, u.slow_since
        FROM unnest(p_runs) AS u ORDER BY u.kind COLLATE "C", u.id COLLATE "C"
        ON CONFLICT (kind, id) DO NOTHING RETURNING run_id
    )
    SELECT coalesce(array_agg(run_id), '{}') INTO begun FROM put;
    RETURN begun;
END $$;

-- As `commit_v1`, for a batch in which runs begin. `in_use`: the places of those whose ids were in use; then nothing was
-- written, and the batch is to come again without them: `p_left_out` are then their run ids. Of a batch that was written before
-- it tells the same.
--
-- `p_begun_activities`: where no other step adds any; else they are among the others, in the order of all steps.
CREATE FUNCTION begin_and_commit_v1(
    p_begins run_v1[], p_begun_records record_v1[], p_begun_activities activity_v1[], p_left_out text[],
    p_lease text, p_epoch bigint, p_number bigint, p_partitions bigint[], p_steps step_v1[], p_records record_v1[],
    p_consumed bigint[], p_dropped generation_v1[], p_queue_drops task_v1[], p_queue_adds activity_v1[], p_parks boolean,
    p_is_rare boolean, p_is_told boolean, p_messages message_v1[], p_others message_v1[], p_other_memos memo_v1[],
    p_memos memo_v1[], p_span bigint, p_at bigint,
    OUT now bigint, OUT is_repeated boolean, OUT told run_v1[], OUT verdicts smallint[], OUT sequences bigint[],
    OUT way_places bigint[], OUT ways run_v1[], OUT in_use bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    last_epoch bigint;
    last_number bigint;
    last_left_out text[];
    begun text[];
    c record;
BEGIN
    SELECT epoch, commit_number, commit_left_out INTO last_epoch, last_number, last_left_out
    FROM leases WHERE lease_id = p_lease FOR NO KEY UPDATE;
    IF last_epoch = p_epoch AND p_number > last_number THEN
        begun := insert_runs(p_begins);
        IF cardinality(begun) < cardinality(p_begins) THEN
            DELETE FROM tags t USING unnest(p_begins) AS u
            WHERE u.tags IS NOT NULL AND u.run_id = ANY (begun) AND t.kind = u.kind AND t.id = u.id;
            DELETE FROM runs r USING unnest(p_begins) AS u
            WHERE u.run_id = ANY (begun) AND r.kind = u.kind AND r.id = u.id;
        ELSE
            INSERT INTO history SELECT u.* FROM unnest(p_begun_records) AS u;
            IF cardinality(p_begun_activities) > 0 THEN
                PERFORM change_queue(NULL, '{}', p_begun_activities);
            END IF;
            IF last_left_out IS DISTINCT FROM p_left_out THEN
                UPDATE leases SET commit_left_out = p_left_out WHERE lease_id = p_lease;
            END IF;
        END IF;
    ELSIF last_epoch = p_epoch AND p_number = last_number THEN
        begun := ARRAY(
            SELECT run_id FROM unnest(p_begins) WHERE last_left_out IS NULL OR run_id <> ALL (last_left_out)
        );
    END IF;
    IF cardinality(begun) < cardinality(p_begins) THEN
        in_use := ARRAY(
            SELECT place FROM generate_series(1, cardinality(p_begins)) AS place
            WHERE p_begins[place].run_id <> ALL (begun)
        );
        IF p_number > last_number THEN
            is_repeated := false;
            RETURN;
        END IF;
    END IF;
    SELECT * INTO c FROM commit_v1(
        p_lease, p_epoch, p_number, p_partitions, p_steps, p_records, p_consumed, p_dropped, p_queue_drops, p_queue_adds,
        p_parks, p_is_rare, p_is_told, p_messages, p_others, p_other_memos, p_memos, p_span, p_at
    );
    now := c.now; is_repeated := c.is_repeated; told := c.told; verdicts := c.verdicts; sequences := c.sequences;
    way_places := c.way_places; ways := c.ways;
END $$;

-- Whoever may commit may do so in this way too.
DO $$
DECLARE
    role regrole;
BEGIN
    FOR role IN
        SELECT DISTINCT granted.grantee::regrole FROM pg_proc, aclexplode(proacl) AS granted
        WHERE pronamespace = current_schema()::regnamespace AND proname = 'commit_v1' AND granted.grantee <> 0
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION begin_and_commit_v1 TO %s', role);
    END LOOP;
END $$;
