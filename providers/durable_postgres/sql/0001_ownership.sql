-- Version 1: leases and partitions. Each function is one call of the contract, and one transaction.
--
-- `p_at` is the store's clock in microseconds, null for the server's own. The hub's row is locked before leases, these before
-- partitions and, of several, in the order of their ids, so that nobody waits for one another in a ring.
-- DU001: the lease is lost. DU002: the call means nothing, its text says why.

CREATE FUNCTION clock_us(p_at bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(p_at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

-- The hub's time: the store's clock, corrected.
CREATE FUNCTION now_us(p_at bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT clock_us(p_at) + clock_correction FROM hub WHERE only_one);
END $$;

CREATE FUNCTION now_v1(p_at bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN now_us(p_at); END $$;

-- What becomes of the hub's clock, as `durable.hub_clock.HubClock` says: `p_what` is one of its methods. Return the hub's time.
CREATE FUNCTION set_clock(
    p_what text, p_store bigint, p_number bigint, p_belief bigint, p_jump bigint, p_span bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before record;
    correction bigint;
    seen bigint;
BEGIN
    SELECT clock_number, clock_correction, clock_seen INTO before FROM hub WHERE only_one FOR NO KEY UPDATE;
    correction := before.clock_correction;
    seen := before.clock_seen;
    IF p_what = 'begun' THEN
        IF p_store + correction < seen - p_jump THEN
            correction := CASE WHEN p_store >= seen - p_jump THEN 0 ELSE seen - p_store END;
        END IF;
    ELSIF p_what = 'renewed' THEN
        IF p_number = before.clock_number THEN
            IF abs(p_belief - p_store) <= p_jump THEN
                correction := 0;
            ELSIF abs(p_belief - p_store - correction) > p_jump THEN
                correction := p_belief - p_store;
            END IF;
        END IF;
        seen := p_store + correction;
    ELSE
        correction := 0;
        seen := p_store;
    END IF;
    IF correction <> before.clock_correction THEN
        UPDATE hub SET clock_number = clock_number + 1, clock_correction = correction, clock_seen = seen WHERE only_one;
        UPDATE leases SET expires_at = p_store + correction + p_span WHERE lease_id = ANY (ARRAY(
            SELECT lease_id FROM leases WHERE epoch = 1 OR NOT is_worker ORDER BY lease_id FOR NO KEY UPDATE
        ));
    ELSIF seen <> before.clock_seen THEN
        UPDATE hub SET clock_seen = seen WHERE only_one;
    END IF;
    RETURN p_store + correction;
END $$;

CREATE FUNCTION is_live(p_epoch bigint, p_expires_at bigint, p_now bigint, p_ahead bigint) RETURNS boolean
LANGUAGE sql AS $$
    SELECT p_epoch = 1 AND p_expires_at > p_now AND p_expires_at - p_now <= p_ahead
$$;

CREATE FUNCTION lease_lost(p_lease text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'lease % was taken over or given up; nothing was written', p_lease USING ERRCODE = 'DU001';
END $$;

CREATE FUNCTION prolong(p_lease text, p_epoch bigint, p_expires_at bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE leases SET expires_at = p_expires_at WHERE lease_id = p_lease AND epoch = p_epoch;
    IF NOT FOUND THEN
        PERFORM lease_lost(p_lease);
    END IF;
END $$;

-- Begin a lease. Again under the same id: it is the one that was begun.
CREATE FUNCTION lease_v1(
    p_lease text, p_name text, p_announcement bytea, p_is_worker boolean, p_span bigint, p_jump bigint, p_at bigint,
    OUT now bigint, OUT expires_at bigint, OUT clock_number bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF p_is_worker THEN
        now := set_clock('begun', clock_us(p_at), NULL, NULL, p_jump, p_span);
    ELSE
        now := now_us(p_at);
    END IF;
    expires_at := now + p_span;
    clock_number := (SELECT h.clock_number FROM hub h WHERE h.only_one);
    INSERT INTO leases (lease_id, epoch, is_worker, expires_at)
    VALUES (p_lease, 1, p_is_worker, lease_v1.now + p_span) ON CONFLICT (lease_id) DO NOTHING;
    IF p_is_worker THEN
        INSERT INTO workers (lease_id, name, announcement) VALUES (p_lease, p_name, p_announcement)
        ON CONFLICT (lease_id) DO NOTHING;
    END IF;
END $$;

-- Remove a few of the leases that own nothing and expired long ago, and of the memos that have expired.
CREATE FUNCTION forget(p_now bigint, p_leases_until bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone text[];
BEGIN
    gone := ARRAY(
        SELECT lease_id FROM leases WHERE expires_at <= p_leases_until
        AND NOT EXISTS (SELECT 1 FROM partitions WHERE partitions.lease_id = leases.lease_id)
        ORDER BY lease_id LIMIT 100 FOR UPDATE SKIP LOCKED
    );
    IF gone <> '{}' THEN
        UPDATE queue SET claimer = NULL WHERE claimer = ANY (gone);
        DELETE FROM workers WHERE lease_id = ANY (gone);
        DELETE FROM leases WHERE lease_id = ANY (gone);
    END IF;
    DELETE FROM memos WHERE key = ANY (ARRAY(
        SELECT key FROM memos WHERE expires_at <= p_now ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED
    ));
END $$;

-- Prolong a lease, let the hub's clock hear what its holder takes for the time, and look around: one row for each partition
-- (`what` 0), for each worker (`what` 1, with the end of its lease), and for the clock (`what` 2, with its numbers).
CREATE FUNCTION renew_v1(
    p_lease text, p_epoch bigint, p_announcement bytea, p_confirms boolean, p_span bigint, p_ahead bigint, p_jump bigint,
    p_forgotten_after bigint, p_unbroken bigint, p_at bigint, p_number bigint, p_belief bigint, p_since bigint
) RETURNS TABLE (
    now bigint, what smallint, partition bigint, lease_id text, is_live boolean, name text, announcement bytea,
    numbers bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at bigint;
    is_witness boolean := false;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM leases l WHERE l.lease_id = p_lease AND l.epoch = p_epoch) THEN
        PERFORM lease_lost(p_lease);
    ELSIF p_confirms THEN
        at := set_clock('confirmed', clock_us(p_at), NULL, NULL, p_jump, p_span);
    ELSIF p_belief IS NOT NULL AND EXISTS (SELECT 1 FROM partitions p WHERE p.lease_id = p_lease) THEN
        is_witness := p_number = (SELECT h.clock_number FROM hub h WHERE h.only_one FOR NO KEY UPDATE)
            AND p_belief - p_since >= p_unbroken;
        at := set_clock('renewed', clock_us(p_at), p_number, p_belief, p_jump, p_span);
    ELSE
        at := set_clock('begun', clock_us(p_at), NULL, NULL, p_jump, p_span);
    END IF;
    PERFORM prolong(p_lease, p_epoch, at + p_span);
    IF p_announcement IS NOT NULL THEN
        UPDATE workers SET announcement = p_announcement WHERE workers.lease_id = p_lease;
    END IF;
    IF is_witness THEN
        PERFORM forget(at, at - p_forgotten_after);
    END IF;
    RETURN QUERY
        SELECT at, 0::smallint, p.partition, p.lease_id,
            coalesce(is_live(l.epoch, l.expires_at, at, p_ahead), false), NULL::text, NULL::bytea, NULL::bigint[]
        FROM partitions p LEFT JOIN leases l ON l.lease_id = p.lease_id;
    RETURN QUERY
        SELECT at, 1::smallint, NULL::bigint, w.lease_id,
            coalesce(is_live(l.epoch, l.expires_at, at, p_ahead), false), w.name, w.announcement, ARRAY[l.expires_at]
        FROM workers w LEFT JOIN leases l ON l.lease_id = w.lease_id;
    RETURN QUERY
        SELECT at, 2::smallint, NULL::bigint, NULL, NULL::boolean, NULL::text, NULL::bytea,
            ARRAY[h.clock_number, h.clock_correction, h.clock_seen]
        FROM hub h;
END $$;

-- Take partitions that are unowned, or whose owner is dead: its epoch is raised first, behind whatever it is committing.
CREATE FUNCTION take_v1(
    p_lease text, p_epoch bigint, p_partitions bigint[], p_from_live boolean, p_span bigint, p_ahead bigint, p_at bigint
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    at bigint;
    unknown bigint[];
    dead text[];
BEGIN
    UPDATE hub SET clock_seen = now_us(p_at) WHERE only_one AND now_us(p_at) >= clock_seen - 3600000000; -- as set_clock, an hour
    PERFORM 1 FROM leases WHERE lease_id = p_lease OR lease_id IN (
        SELECT lease_id FROM partitions WHERE partition = ANY (p_partitions)
    ) ORDER BY lease_id FOR UPDATE;
    at := now_us(p_at);
    PERFORM prolong(p_lease, p_epoch, at + p_span);
    unknown := ARRAY(
        SELECT wanted FROM unnest(p_partitions) AS wanted
        WHERE NOT EXISTS (SELECT 1 FROM partitions WHERE partition = wanted) ORDER BY wanted
    );
    IF unknown <> '{}' THEN
        RAISE EXCEPTION 'no such partitions: %', unknown USING ERRCODE = 'DU002';
    END IF;
    PERFORM 1 FROM partitions WHERE partition = ANY (p_partitions) ORDER BY partition FOR UPDATE;
    dead := ARRAY(
        SELECT DISTINCT p.lease_id FROM partitions p LEFT JOIN leases l ON l.lease_id = p.lease_id
        WHERE p.partition = ANY (p_partitions) AND p.lease_id <> p_lease
        AND (p_from_live OR NOT coalesce(is_live(l.epoch, l.expires_at, at, p_ahead), false))
    );
    IF dead <> '{}' THEN
        UPDATE leases SET epoch = epoch + 1 WHERE lease_id = ANY (dead);
        UPDATE partitions SET lease_id = NULL WHERE lease_id = ANY (dead);
    END IF;
    UPDATE partitions SET lease_id = p_lease WHERE partition = ANY (p_partitions) AND lease_id IS NULL;
    RETURN ARRAY(SELECT partition FROM partitions WHERE partition = ANY (p_partitions) AND lease_id = p_lease);
END $$;

-- Give partitions up, or with null everything; return whether there was something to give up.
CREATE FUNCTION release_v1(p_lease text, p_epoch bigint, p_partitions bigint[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM leases WHERE lease_id = p_lease AND epoch = p_epoch FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_partitions IS NOT NULL THEN
        UPDATE partitions SET lease_id = NULL WHERE lease_id = p_lease AND partition = ANY (p_partitions);
        RETURN true;
    END IF;
    UPDATE partitions SET lease_id = NULL WHERE lease_id = p_lease;
    UPDATE queue SET claimer = NULL WHERE claimer = p_lease;
    DELETE FROM workers WHERE lease_id = p_lease;
    DELETE FROM leases WHERE lease_id = p_lease;
    RETURN true;
END $$;
