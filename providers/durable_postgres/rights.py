"""The least rights with which a role can work with a hub: to call the functions, and to read what is listed."""

from __future__ import annotations

from durable_postgres.schema import schema_of

_READ = ("hub", "runs", "former", "tags", "history", "memos")


def statements(hub_name: str, role: str) -> list[str]:
    """Return the statements that give a role the rights that a worker or client needs; the schema's owner runs them."""
    schema = schema_of(hub_name)
    quoted = '"' + role.replace('"', '""') + '"'
    tables = ", ".join(f"{schema}.{name}" for name in _READ)
    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {quoted}",
        f"GRANT SELECT ON {tables} TO {quoted}",
        # Of the functions only those that are calls of the contract: each runs with the rights of the schema's owner.
        (
            "DO $$ DECLARE call regprocedure; BEGIN FOR call IN SELECT oid::regprocedure FROM pg_proc"
            f" WHERE pronamespace = '{schema}'::regnamespace AND proname ~ '_v[0-9]+$' LOOP"
            f" EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {quoted.replace(chr(39), chr(39) * 2)}', call);"
            " END LOOP; END $$"
        ),
    ]
