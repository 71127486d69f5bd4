-- Version 3: starts of new instances, which is what most calls bring, are stored together.

-- Begin as many runs as have free ids, of messages that are all plain starts: each brings a run, takes nobody's place, was
-- refused by nobody, and neither waits for a time nor has tags. Return the ids of the runs that have begun.
CREATE FUNCTION begin_runs(p_messages message_v1[], p_numbers bigint[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    begun text[];
    are_all boolean;
BEGIN
    -- In the order of their keys, in which everybody locks; of several with one id the first one begins.
    WITH put AS (
        INSERT INTO runs
        SELECT
            (m.start).kind, (m.start).id, (m.start).partition, (m.start).run_id, (m.start).name, (m.start).version,
            (m.start).created_at, (m.start).scheduled_at, (m.start).updated_at, (m.start).status, (m.start).generation,
            (m.start).records, (m.start).chain, (m.start).input, (m.start).output, (m.start).custom_status,
            (m.start).failure, (m.start).stall_reason, (m.start).completed_at, (m.start).parent_kind,
            (m.start).parent_id, (m.start).parent_run_id, (m.start).parent_task, NULL, (m.start).due_at,
            (m.start).open_work, (m.start).parked_until, (m.start).state, (m.start).slow_turns, (m.start).slow_since
        FROM unnest(p_messages) WITH ORDINALITY AS m (
            kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused, other_message,
            other_memo, in_place_of, place
        ) ORDER BY m.kind COLLATE "C", m.id COLLATE "C", m.place
        ON CONFLICT (kind, id) DO NOTHING RETURNING run_id
    )
    SELECT array_agg(run_id) INTO begun FROM put;
    are_all := cardinality(begun) = cardinality(p_messages);
    INSERT INTO inbox
    SELECT
        m.partition, p_numbers[m.place] * 65536 + m.partition, m.priority, m.visible_at, m.kind, m.id, m.run_id,
        (m.start).run_id, m.data
    FROM unnest(p_messages) WITH ORDINALITY AS m (
        kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused, other_message,
        other_memo, in_place_of, place
    ) WHERE are_all OR (m.start).run_id = ANY (begun);
    RETURN begun;
END $$;

CREATE OR REPLACE FUNCTION deliver(
    p_messages message_v1[], p_others message_v1[], p_memos memo_v1[], p_now bigint,
    OUT verdicts smallint[], OUT sequences bigint[], OUT way_places bigint[], OUT ways run_v1[]
) LANGUAGE plpgsql AS $$
DECLARE
    item record;
    m message_v1;
    numbers bigint[];
    begun text[];
    verdict smallint;
    sequence bigint;
    way run_v1;
BEGIN
    verdicts := array_fill(0::smallint, ARRAY[cardinality(p_messages)]);
    numbers := ARRAY(SELECT nextval('message_numbers') FROM generate_series(1, cardinality(p_messages)));
    IF (
        SELECT bool_and(
            expects = 1 AND (start).run_id IS NOT NULL AND (start).tags IS NULL AND (start).parked_until = 0
            AND visible_at <= p_now AND in_place_of IS NULL AND refused IS NULL
        ) AND count(DISTINCT (start).run_id) = count(*) FROM unnest(p_messages)
    ) THEN
        begun := begin_runs(p_messages, numbers);
        sequences := ARRAY(
            SELECT numbers[place] * 65536 + partition FROM unnest(p_messages) WITH ORDINALITY AS u (
                kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused,
                other_message, other_memo, in_place_of, place
            ) ORDER BY place
        );
        IF cardinality(begun) = cardinality(p_messages) THEN
            RETURN;
        END IF;
    ELSE
        sequences := array_fill(0::bigint, ARRAY[cardinality(p_messages)]);
    END IF;
    FOR item IN
        SELECT place, kind, id, partition, refused, other_refused, other_message, other_memo, in_place_of,
            ROW(
                kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused,
                other_message, other_memo, in_place_of
            )::message_v1 AS message
        FROM unnest(p_messages) WITH ORDINALITY AS u (
            kind, id, partition, data, priority, visible_at, run_id, expects, start, refused, other_refused,
            other_message, other_memo, in_place_of, place
        ) WHERE begun IS NULL OR (start).run_id <> ALL (begun) ORDER BY kind COLLATE "C", id COLLATE "C", place
    LOOP
        sequences[item.place] := 0;
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
