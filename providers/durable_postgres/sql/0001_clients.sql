-- Version 1: what clients write.

-- Store messages under the next number of a lease. One that was forgotten comes back with another epoch: what it could do
-- besides submitting stays lost.
CREATE FUNCTION submit_v1(
    p_lease text, p_epoch bigint, p_number bigint, p_messages message_v1[], p_others message_v1[],
    p_other_memos memo_v1[], p_span bigint, p_at bigint,
    OUT now bigint, OUT is_repeated boolean, OUT verdicts smallint[], OUT sequences bigint[], OUT way_places bigint[],
    OUT ways run_v1[]
) LANGUAGE plpgsql AS $$
DECLARE
    lease record;
    d record;
BEGIN
    LOOP
        SELECT submit_number, submit_verdicts, submit_sequences INTO lease
        FROM leases WHERE lease_id = p_lease FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO leases (lease_id, epoch, is_worker, expires_at)
        VALUES (p_lease, p_epoch + 1, false, now_us(p_at) + p_span) ON CONFLICT (lease_id) DO NOTHING;
    END LOOP;
    now := now_us(p_at);
    is_repeated := p_number = lease.submit_number;
    IF is_repeated THEN
        verdicts := lease.submit_verdicts; sequences := lease.submit_sequences;
        RETURN;
    ELSIF p_number < lease.submit_number THEN
        RAISE EXCEPTION 'submit % is older than %, the last one: its answer is gone', p_number, lease.submit_number
        USING ERRCODE = 'DU002';
    END IF;
    SELECT * INTO d FROM deliver(p_messages, p_others, p_other_memos, now);
    verdicts := d.verdicts; sequences := d.sequences; way_places := d.way_places; ways := d.ways;
    UPDATE leases SET submit_number = p_number, submit_verdicts = d.verdicts, submit_sequences = d.sequences,
        expires_at = CASE WHEN is_worker THEN expires_at ELSE submit_v1.now + p_span END
    WHERE lease_id = p_lease;
END $$;

-- Remove finished runs, each with the ended runs of its instance before it; return how many of the targets were removed.
CREATE FUNCTION purge_v1(p_kinds text[], p_ids text[], p_run_ids text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    target record;
    current record;
    last_number bigint;
    removed bigint := 0;
BEGIN
    FOR target IN
        SELECT * FROM unnest(p_kinds, p_ids, p_run_ids) WITH ORDINALITY AS u (kind, id, run_id, place)
        ORDER BY kind COLLATE "C", id COLLATE "C", place
    LOOP
        SELECT run_id, status, partition INTO current FROM runs r
        WHERE r.kind = target.kind AND r.id = target.id FOR UPDATE;
        IF FOUND AND current.run_id = target.run_id THEN
            CONTINUE WHEN current.status < 4 OR EXISTS (
                SELECT 1 FROM former f WHERE f.kind = target.kind AND f.id = target.id AND f.place = 2
            );
            PERFORM remove_instance(target.kind, target.id);
            DELETE FROM inbox i
            WHERE i.partition = current.partition AND i.kind = target.kind AND i.id = target.id;
            DELETE FROM inbox_later i WHERE i.kind = target.kind AND i.id = target.id;
        ELSE
            SELECT number INTO last_number FROM former f
            WHERE f.kind = target.kind AND f.id = target.id AND f.run_id = target.run_id AND f.place = 1 FOR UPDATE;
            CONTINUE WHEN NOT FOUND;
            PERFORM remove_former(target.kind, target.id, last_number);
        END IF;
        removed := removed + 1;
    END LOOP;
    RETURN removed;
END $$;
