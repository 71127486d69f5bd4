-- Version 1: the activity queue.

-- Give free what dead leases have claimed, and of this lease's own claims what it does not hold (`p_is_compared`).
CREATE FUNCTION free_claims(p_lease text, p_held task_v1[], p_is_compared boolean, p_now bigint, p_ahead bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    dead text[];
BEGIN
    dead := ARRAY(
        SELECT lease_id FROM leases WHERE has_claimed AND NOT is_live(epoch, expires_at, p_now, p_ahead)
        ORDER BY lease_id FOR NO KEY UPDATE SKIP LOCKED
    );
    IF dead <> '{}' THEN
        UPDATE queue SET claimer = NULL WHERE claimer = ANY (dead);
        UPDATE leases SET has_claimed = false WHERE lease_id = ANY (dead);
    END IF;
    IF p_is_compared AND EXISTS (SELECT 1 FROM queue WHERE claimer = p_lease) THEN
        UPDATE queue SET claimer = NULL WHERE number = ANY (ARRAY(
            SELECT q.number FROM (
                SELECT kind, id, run_id, generation, task_id FROM queue WHERE claimer = p_lease
                EXCEPT SELECT h.* FROM unnest(p_held) AS h
            ) AS unknown JOIN queue q ON q.kind = unknown.kind AND q.id = unknown.id AND q.run_id = unknown.run_id
                AND q.generation = unknown.generation AND q.task_id = unknown.task_id
        ));
    END IF;
END $$;

-- The numbers of the rows to claim next, without those in `p_but`: first what nobody began in time.
CREATE FUNCTION claimable(
    p_queues text[], p_names text[], p_versions text[], p_limit bigint, p_but bigint[], p_now bigint
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    expired bigint[];
BEGIN
    expired := ARRAY(
        SELECT number FROM queue
        WHERE start_by IS NOT NULL AND first_claimed_at = 0 AND claimer IS NULL AND start_by <= p_now
        AND number <> ALL (p_but) ORDER BY start_by LIMIT p_limit
    );
    RETURN (expired || ARRAY(
        SELECT found.number FROM unnest(p_queues) AS wanted (queue) CROSS JOIN LATERAL (
            SELECT q.number, q.priority FROM queue q
            WHERE q.queue = wanted.queue AND q.claimer IS NULL AND q.visible_at <= p_now AND q.number <> ALL (p_but)
            AND q.number <> ALL (expired) AND (p_names IS NULL OR EXISTS (
                SELECT 1 FROM unnest(p_names, p_versions) AS s (name, version)
                WHERE s.name = q.name AND s.version IS NOT DISTINCT FROM q.version
            )) ORDER BY q.priority, q.number LIMIT p_limit
        ) AS found ORDER BY found.priority, found.number LIMIT p_limit
    ))[:p_limit];
END $$;

-- Claim attempts. One that another claimer has locked at this moment is passed over.
CREATE FUNCTION claim_v1(
    p_lease text, p_epoch bigint, p_queues text[], p_names text[], p_versions text[], p_limit bigint, p_held task_v1[],
    p_is_compared boolean, p_ahead bigint, p_at bigint
) RETURNS SETOF activity_v1 LANGUAGE plpgsql AS $$
DECLARE
    at bigint := now_us(p_at);
    lease record;
    tried bigint[] := '{}';
    wanted bigint[];
    claimed bigint[] := '{}';
BEGIN
    SELECT epoch, expires_at INTO lease FROM leases WHERE lease_id = p_lease;
    IF lease.epoch IS DISTINCT FROM p_epoch THEN
        PERFORM lease_lost(p_lease);
    ELSIF NOT is_live(1, lease.expires_at, at, p_ahead) THEN
        RETURN;
    END IF;
    PERFORM free_claims(p_lease, p_held, p_is_compared, at, p_ahead);
    LOOP
        wanted := claimable(p_queues, p_names, p_versions, p_limit - cardinality(claimed), tried, at);
        EXIT WHEN wanted = '{}';
        IF tried = '{}' THEN -- the lease must not go while something is claimed for it: nobody would find that again
            PERFORM 1 FROM leases WHERE lease_id = p_lease AND epoch = p_epoch FOR KEY SHARE;
            IF NOT FOUND THEN
                PERFORM lease_lost(p_lease);
            END IF;
        END IF;
        tried := tried || wanted;
        claimed := claimed || ARRAY(
            SELECT q.number FROM unnest(wanted) WITH ORDINALITY AS w (number, place)
            JOIN queue q ON q.number = w.number WHERE q.claimer IS NULL ORDER BY w.place FOR UPDATE OF q SKIP LOCKED
        );
        EXIT WHEN cardinality(claimed) >= p_limit OR cardinality(wanted) < p_limit;
    END LOOP;
    IF claimed = '{}' THEN
        RETURN;
    END IF;
    UPDATE queue SET claimer = p_lease, deliveries = deliveries + 1,
        first_claimed_at = CASE first_claimed_at WHEN 0 THEN at ELSE first_claimed_at END
    WHERE number = ANY (claimed);
    UPDATE leases SET has_claimed = true WHERE lease_id = p_lease AND NOT has_claimed;
    RETURN QUERY
        SELECT q.kind, q.id, q.run_id, q.generation, q.task_id, q.partition, q.queue, q.name, q.version, q.data, q.priority,
            q.visible_at, q.start_by, q.deliveries, q.first_claimed_at, q.heartbeat
        FROM unnest(claimed) WITH ORDINALITY AS w (number, place) JOIN queue q ON q.number = w.number ORDER BY w.place;
END $$;

-- What waits in the lease's partitions, unclaimed, for other queues and names than these.
CREATE FUNCTION unserved_v1(p_lease text, p_epoch bigint, p_queues text[], p_names text[], p_limit bigint)
RETURNS SETOF activity_v1 STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
        SELECT q.kind, q.id, q.run_id, q.generation, q.task_id, q.partition, q.queue, q.name, q.version, q.data, q.priority,
            q.visible_at, q.start_by, q.deliveries, q.first_claimed_at, q.heartbeat
        FROM leases l JOIN partitions p ON p.lease_id = l.lease_id JOIN queue q ON q.partition = p.partition
        WHERE l.lease_id = p_lease AND l.epoch = p_epoch AND q.claimer IS NULL AND NOT EXISTS (
            SELECT 1 FROM unnest(p_queues, p_names) AS s (queue, name) WHERE s.queue = q.queue AND s.name = q.name
        ) ORDER BY q.number LIMIT p_limit;
END $$;

-- Delete the rows of reported attempts and store their messages; then note heartbeats. One answer for each attempt of
-- `p_tasks`, then of `p_put_off` (whose outcome the store refuses: they are free again later), then for each beat.
CREATE FUNCTION report_v1(
    p_lease text, p_tasks task_v1[], p_messages message_v1[], p_others message_v1[], p_other_memos memo_v1[],
    p_put_off task_v1[], p_span bigint, p_beats task_v1[], p_details bytea[], p_at bigint,
    OUT now bigint, OUT answers boolean[], OUT verdicts smallint[], OUT sequences bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    done bigint[] := '{}';
    item record;
    d record;
BEGIN
    now := now_us(p_at);
    answers := array_fill(
        false, ARRAY[cardinality(p_tasks) + cardinality(p_put_off) + cardinality(p_beats)]
    );
    IF p_tasks <> '{}' THEN
        PERFORM lock_runs('{}', p_messages); -- runs before attempts, as a commit does
        WITH gone AS (
            DELETE FROM queue q USING unnest(p_tasks) WITH ORDINALITY AS t (kind, id, run_id, generation, task_id, place)
            WHERE q.kind = t.kind AND q.id = t.id AND q.run_id = t.run_id AND q.generation = t.generation
            AND q.task_id = t.task_id RETURNING t.place
        ) SELECT coalesce(array_agg(place ORDER BY place), '{}') INTO done FROM gone;
        FOR item IN SELECT unnest(done) AS place LOOP
            answers[item.place] := true;
        END LOOP;
        SELECT * INTO d FROM deliver(
            ARRAY(SELECT p_messages[place] FROM unnest(done) AS place ORDER BY place), p_others, p_other_memos, now
        );
        verdicts := d.verdicts; sequences := d.sequences;
    END IF;
    FOR item IN SELECT * FROM unnest(p_put_off) WITH ORDINALITY AS t (kind, id, run_id, generation, task_id, place) LOOP
        UPDATE queue q SET claimer = NULL, visible_at = now + p_span WHERE q.kind = item.kind AND q.id = item.id
        AND q.run_id = item.run_id AND q.generation = item.generation AND q.task_id = item.task_id;
        answers[cardinality(p_tasks) + item.place] := FOUND;
    END LOOP;
    FOR item IN
        SELECT *, p_details[place] AS details
        FROM unnest(p_beats) WITH ORDINALITY AS t (kind, id, run_id, generation, task_id, place) ORDER BY place
    LOOP
        IF item.details IS NULL THEN
            PERFORM 1 FROM queue q WHERE q.kind = item.kind AND q.id = item.id AND q.run_id = item.run_id
            AND q.generation = item.generation AND q.task_id = item.task_id AND q.claimer = p_lease;
        ELSE
            UPDATE queue q SET heartbeat = item.details WHERE q.kind = item.kind AND q.id = item.id
            AND q.run_id = item.run_id AND q.generation = item.generation AND q.task_id = item.task_id
            AND q.claimer = p_lease;
        END IF;
        answers[cardinality(p_tasks) + cardinality(p_put_off) + item.place] := FOUND;
    END LOOP;
END $$;
