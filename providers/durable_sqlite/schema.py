"""The tables of a store file, and how a file becomes, or is recognised as, one of ours.

`user_version` is the version of the schema, `application_id` says whose file it is. A change of the schema is one more
entry in MIGRATIONS; entries are never edited once they were released.
"""

from __future__ import annotations

import sqlite3

from durable.errors import StoreError

APPLICATION_ID = 0x64757262  # "durb"

# Rows live in rowid tables where they are written often: rows of the same time lie together, so that a group commit
# touches few pages whatever the ids are. Partial indexes hold only what their query is about: a million dormant
# instances are in none of those that a worker asks.
_VERSION_1 = (
    "CREATE TABLE hubs (hub INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,"
    " sequence INTEGER NOT NULL)",
    # `ownership` counts the changes of what the lease owns.
    "CREATE TABLE leases (hub INTEGER, lease_id TEXT, epoch INTEGER NOT NULL, is_worker INTEGER NOT NULL,"
    " expires_at INTEGER NOT NULL, ownership INTEGER NOT NULL DEFAULT 0,"
    " commit_number INTEGER NOT NULL DEFAULT 0, commit_answer TEXT,"
    " submit_number INTEGER NOT NULL DEFAULT 0, submit_answer TEXT,"
    " PRIMARY KEY (hub, lease_id)) WITHOUT ROWID",
    # Apart from the lease, whose row every commit rewrites.
    "CREATE TABLE workers (hub INTEGER, lease_id TEXT, name TEXT NOT NULL, announcement BLOB NOT NULL,"
    " PRIMARY KEY (hub, lease_id)) WITHOUT ROWID",
    "CREATE TABLE partitions (hub INTEGER, partition INTEGER, lease_id TEXT,"
    " PRIMARY KEY (hub, partition)) WITHOUT ROWID",
    # All runs. `place`: 0 the current run of its instance, 1 ended and replaced, 2 waiting in a message of Expects.ANY.
    # Payload columns hold bytes, or their number where they lie in large_values.
    "CREATE TABLE runs (number INTEGER PRIMARY KEY, hub INTEGER NOT NULL, place INTEGER NOT NULL,"
    " kind TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL, partition INTEGER NOT NULL,"
    " status INTEGER NOT NULL, generation INTEGER NOT NULL, records INTEGER NOT NULL, chain BLOB NOT NULL,"
    " updated_at INTEGER NOT NULL, due_at INTEGER, open_work INTEGER NOT NULL, parked_until INTEGER NOT NULL,"
    " state BLOB NOT NULL, slow_turns INTEGER NOT NULL, slow_since INTEGER NOT NULL,"
    " name TEXT NOT NULL, version TEXT, created_at INTEGER NOT NULL, scheduled_at INTEGER NOT NULL,"
    " completed_at INTEGER, stall_reason TEXT, parent_kind TEXT, parent_id TEXT, parent_run_id TEXT,"
    " parent_task TEXT, tags TEXT, input BLOB, output BLOB, custom_status BLOB, failure BLOB)",
    "CREATE UNIQUE INDEX runs_by_key ON runs (hub, kind, id) WHERE place = 0",
    "CREATE INDEX runs_ended ON runs (hub, kind, id, run_id) WHERE place = 1",
    "CREATE INDEX runs_waiting ON runs (hub, kind, id, run_id) WHERE place = 2",
    "CREATE INDEX runs_to_recover ON runs (hub, partition)"
    " WHERE place = 0 AND status < 4 AND (open_work > 0 OR status = 3 OR slow_turns > 0)",
    "CREATE INDEX runs_due ON runs (hub, due_at) WHERE place = 0 AND status < 4 AND due_at IS NOT NULL",
    "CREATE INDEX runs_parked ON runs (hub, parked_until) WHERE place = 0 AND parked_until > 0",
    "CREATE INDEX runs_listed ON runs (hub, kind, status, created_at, id) WHERE place = 0",
    "CREATE INDEX runs_of_parent ON runs (hub, parent_kind, parent_id) WHERE place = 0 AND parent_id IS NOT NULL",
    "CREATE TABLE large_values (number INTEGER, column_name TEXT, value BLOB NOT NULL,"
    " PRIMARY KEY (number, column_name))",
    "CREATE TABLE tags (hub INTEGER, name TEXT, value TEXT, number INTEGER,"
    " PRIMARY KEY (hub, name, value, number)) WITHOUT ROWID",
    # `part` counts the pieces of a long record; the checksum is that of the whole and stands in the first.
    "CREATE TABLE history (hub INTEGER NOT NULL, run_id TEXT NOT NULL, generation INTEGER NOT NULL,"
    " record INTEGER NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL, checksum BLOB NOT NULL)",
    "CREATE UNIQUE INDEX history_in_order ON history (hub, run_id, generation, record, part)",
    # `start_run_id`: the run whose row the message brings.
    "CREATE TABLE inbox (hub INTEGER, sequence INTEGER, partition INTEGER NOT NULL, priority INTEGER NOT NULL,"
    " visible_at INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT, start_run_id TEXT,"
    " data BLOB NOT NULL, PRIMARY KEY (hub, sequence)) WITHOUT ROWID",
    "CREATE INDEX inbox_control ON inbox (hub, sequence) WHERE priority = 0",
    # What is delayed, or waits for a parked instance (`parked`), so that `inbox` can be read from its beginning.
    "CREATE TABLE inbox_later (hub INTEGER, sequence INTEGER, partition INTEGER NOT NULL, priority INTEGER NOT NULL,"
    " visible_at INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT, start_run_id TEXT,"
    " data BLOB NOT NULL, parked INTEGER NOT NULL, PRIMARY KEY (hub, sequence)) WITHOUT ROWID",
    "CREATE INDEX inbox_delayed ON inbox_later (hub, visible_at) WHERE parked = 0",
    "CREATE INDEX inbox_delayed_of ON inbox_later (hub, kind, id) WHERE parked = 0",
    "CREATE INDEX inbox_parked ON inbox_later (hub, kind, id, sequence) WHERE parked = 1",
    "CREATE TABLE queue (number INTEGER PRIMARY KEY, hub INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
    " run_id TEXT NOT NULL, generation INTEGER NOT NULL, task_id INTEGER NOT NULL, partition INTEGER NOT NULL,"
    " queue TEXT NOT NULL, name TEXT NOT NULL, version TEXT, data BLOB NOT NULL, priority INTEGER NOT NULL,"
    " visible_at INTEGER NOT NULL, start_by INTEGER, deliveries INTEGER NOT NULL, first_claimed_at INTEGER NOT NULL,"
    " heartbeat BLOB, claimer TEXT)",
    "CREATE UNIQUE INDEX queue_by_task ON queue (hub, kind, id, run_id, generation, task_id)",
    "CREATE INDEX queue_free ON queue (hub, queue, priority, number) WHERE claimer IS NULL",
    "CREATE INDEX queue_expiring ON queue (hub, start_by) WHERE start_by IS NOT NULL AND first_claimed_at = 0",
    "CREATE INDEX queue_claimed ON queue (hub, claimer) WHERE claimer IS NOT NULL",
    "CREATE TABLE memos (hub INTEGER, key TEXT, data BLOB NOT NULL, expires_at INTEGER NOT NULL,"
    " PRIMARY KEY (hub, key)) WITHOUT ROWID",
    "CREATE INDEX memos_expiring ON memos (hub, expires_at)",
)

# The three numbers of the hub's `HubClock`.
_VERSION_2 = (
    "ALTER TABLE hubs ADD COLUMN clock_number INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE hubs ADD COLUMN clock_correction INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE hubs ADD COLUMN clock_seen INTEGER NOT NULL DEFAULT 0",
)

# For listings by name. None of its columns changes in a run's life, so that only its start and its removal write it.
_VERSION_3 = ("CREATE INDEX runs_named ON runs (hub, kind, name, created_at, id) WHERE place = 0",)

# Tags in the order of their runs' creation, so that a listing by a tag that many have stops at the end of its page. It is as
# many entries as before, and they are written when they were.
_VERSION_4 = (
    "CREATE TABLE tags_in_order (hub INTEGER, name TEXT, value TEXT, created_at INTEGER, number INTEGER,"
    " PRIMARY KEY (hub, name, value, created_at, number)) WITHOUT ROWID",
    "INSERT INTO tags_in_order SELECT tags.hub, tags.name, tags.value, runs.created_at, tags.number FROM tags"
    " JOIN runs ON runs.number = tags.number",
    "DROP TABLE tags",
    "ALTER TABLE tags_in_order RENAME TO tags",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""What leads from each version of the schema to the next; the first entry leads from an empty file to version 1."""


def check_origin(database: sqlite3.Connection, path: str) -> None:
    """Raise StoreError for a file that is not ours, or that a newer release has written. Changes nothing."""
    application_id = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application_id != APPLICATION_ID and (tables or application_id or version):
        raise StoreError(
            f"'{path}' belongs to another program: give the path of a file of its own, which may be missing"
        )
    if version > len(MIGRATIONS):
        raise StoreError(
            f"'{path}' was written by a newer release (schema {version}; this one knows {len(MIGRATIONS)}): "
            "upgrade durable-orchestration here, or give another path"
        )


def migrate(database: sqlite3.Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Bring the schema to the newest version, in one transaction. The caller holds the writers' lock."""
    if database.execute("PRAGMA user_version").fetchone()[0] == len(migrations):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        for statements in migrations[version:]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {len(migrations)}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def find_hub(database: sqlite3.Connection, name: str, partitions: int) -> tuple[int, int]:
    """Return the number and the partitions of a hub, which is added where it is missing."""
    known = "SELECT hub, partitions FROM hubs WHERE name = ?"
    row = database.execute(known, (name,)).fetchone()
    if row is None:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("INSERT INTO hubs (name, partitions, sequence) VALUES (?, ?, 0)", (name, partitions))
            row = database.execute(known, (name,)).fetchone()
            database.executemany(
                "INSERT INTO partitions (hub, partition, lease_id) VALUES (?, ?, NULL)",
                [(row[0], partition) for partition in range(partitions)],
            )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    return row[0], row[1]
