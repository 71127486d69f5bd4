-- Version 1, last: how the calls of the contract run. They reach the tables with the rights of the schema's owner, so that
-- whoever works with the hub needs no more than to call them; and with plans that do not depend on how large a table was when
-- a connection first met it.

DO $$
DECLARE
    call regprocedure;
BEGIN
    FOR call IN SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname ~ '_v1$'
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off '
            'SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off '
            'SET plan_cache_mode = force_generic_plan', call
        );
    END LOOP;
    FOR call IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema()::regnamespace LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', call);
    END LOOP;
END $$;
