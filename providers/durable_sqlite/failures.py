"""SQLite's errors as those of the contract: what can be tried again, what needs somebody to act, and what ends the process."""

from __future__ import annotations

import sqlite3

from durable.errors import StoreError, StoreUnavailableError

_PRIMARY_CODE = 0xFF  # the low byte of an extended result code


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code of an error, without its extension; 0 if it has none."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def is_of_the_disk(error: sqlite3.Error) -> bool:
    """True for an I/O error. After it nobody knows what is on the disk; reading back proves nothing."""
    return primary_code(error) == sqlite3.SQLITE_IOERR


def is_of_another_writer(error: sqlite3.Error) -> bool:
    """True where another connection holds what this one needs."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """Return the contract's error for one of SQLite's. All of them mean that nothing was written."""
    code = primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailableError(
            f"'{path}' is busy with another program's transaction; nothing was written ({error})"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailableError(f"the disk of '{path}' is full: make room; nothing was written ({error})")
    if code in (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT):
        return StoreUnavailableError(f"'{path}': {error}; nothing was written")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return read_only(path, error)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"'{path}' cannot be opened: is its folder there and writable for this user? ({error})")
    if code == sqlite3.SQLITE_NOTADB:
        return StoreError(f"'{path}' is not a SQLite database: give another path ({error})")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreError(f"'{path}' is damaged: stop all its workers and restore it from a backup ({error})")
    return StoreError(f"'{path}': {error}")


def read_only(path: str, error: Exception) -> StoreError:
    """Return the error for a file that this user may not write."""
    return StoreError(
        f"'{path}' is read-only for this user: give write permission on the file and on its folder ({error})"
    )


def broken(path: str, error: Exception) -> StoreError:
    """Return the error after which this process must not touch the store again."""
    return StoreError(
        f"the disk failed while '{path}' was written, so what is on it is uncertain: stop this process, check the disk, "
        f"and start again; unfinished work then goes on from what was really stored ({error})"
    )
