-- Version 3: an instance is found by its key along the primary key, whatever the planner knows of the table.
--
-- Listings begin with the kind and end with the id as well, so that a plan which was made while the table was empty, when every
-- index costs the same, could look instances up by walking a listing from end to end, and did. "POSIX" is another name of
-- the collation "C": the order is the same, but only a query that says so, a listing, can use these indexes.

DROP INDEX runs_listed;
CREATE INDEX runs_listed ON runs (kind COLLATE "POSIX", status, created_at, id COLLATE "POSIX");
DROP INDEX runs_named;
CREATE INDEX runs_named ON runs (kind COLLATE "POSIX", name, created_at, id COLLATE "POSIX");
-- Update the rows of the runs that a batch moves on. Every one must be as the batch expects it.
CREATE OR REPLACE FUNCTION update_runs(p_steps step_v1[]) RETURNS void LANGUAGE plpgsql AS $$
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
        AND r.records = s.before_records AND r.status::int < 4; -- cast, so that no index by status comes into question
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written <> cardinality(p_steps) THEN
        RAISE EXCEPTION 'one of % instances was written by somebody else, or has ended; nothing was written',
            cardinality(p_steps) USING ERRCODE = 'DU001';
    END IF;
END $$;
