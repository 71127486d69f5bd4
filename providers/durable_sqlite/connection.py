"""Connections to one database file, opened so that acknowledged work survives a power cut, and writers one at a time.

SQLite before 3.51.3 (and 3.44.6, 3.50.7 of their branches) can corrupt a WAL file when two connections write or
checkpoint at the same moment. So every write transaction, checkpoint, open and close takes one lock file, whichever
connection and process does it; readers open the file read-only and never checkpoint.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable

from durable.errors import StoreError
from durable_sqlite import failures
from durable_sqlite.filelock import WAIT_S_MAX, FileLock, file_of, locked_out, mode_beside
from durable_sqlite.wal import BYTES_MAX, WalRoom

logger = logging.getLogger("durable.sqlite")

STATEMENTS_CACHED = 256
CACHE_KIB = 16 * 1024
FRAMES_MAX = 4000
"""Pages in the WAL (16 MiB) after which they are copied into the database; SQLite's default of 1,000 copies more often."""
READ_WAIT_S = 5.0
PAUSE_S = 0.002

FULL = 2


def lock_path_of(path: str) -> str:
    """The lock file that all writers of a database take."""
    return path + ".lock"


def lock_of(path: str) -> FileLock:
    """Return that lock, not yet taken."""
    return FileLock(lock_path_of(path), mode_beside(path))


def is_free_of_the_wal_bug(version: tuple[int, int, int]) -> bool:
    """Tell whether this SQLite has the fix for two connections that write or checkpoint a WAL at the same moment."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0)


def log_version(path: str) -> None:
    """Say which SQLite this is and what that means for the file; the reader is often a newcomer who has done nothing wrong."""
    version = sqlite3.sqlite_version
    if is_free_of_the_wal_bug(sqlite3.sqlite_version_info):
        logger.info("'%s' is ready (SQLite %s)", path, version)
        return
    logger.info(
        "'%s' is ready (SQLite %s; this version's known defect with simultaneous writers is avoided, since all take turns "
        "under '%s': nothing needs to be done)",
        path,
        version,
        lock_path_of(path),
    )


def _uri(path: str, mode: str) -> str:
    return f"file:{urllib.parse.quote(path)}?mode={mode}"


class ReadConnection(sqlite3.Connection):
    """A read-only connection, whose opening and closing take the writers' lock."""

    path = ""

    @classmethod
    def open(cls, path: str) -> ReadConnection:
        """Open the file, which must exist, for reading only. Blocks."""
        with lock_of(path):
            connection = sqlite3.connect(
                _uri(path, "ro"),
                uri=True,
                timeout=READ_WAIT_S,
                isolation_level=None,
                check_same_thread=False,
                factory=cls,
                cached_statements=STATEMENTS_CACHED,
            )
            connection.path = path
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA mmap_size = 0")
            connection.execute("PRAGMA schema_version").fetchone()  # the first read opens the WAL as well
            return connection

    def close(self) -> None:
        """Close the connection, also where its lock cannot be had any more."""
        lock = lock_of(self.path)
        try:
            lock.acquire()
        except StoreError as error:
            logger.debug("'%s' is closed without its lock: %s", self.path, error)
        try:
            super().close()
        finally:
            lock.close()


class WriteConnection:
    """The one connection of a provider that writes.

    Between a `begin` that succeeded and `end` the caller has the database and the lock file for itself, whether the
    transaction was committed or rolled back. Any thread may begin, and another may end.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken: StoreError | None = None
        self.commit_s_average = 0.0
        self._turn = threading.Lock()  # one transaction of this object at a time, whichever thread
        self._file_lock = lock_of(path)
        self._frames_per_commit = 8.0
        self._commits = 0
        self._file = (0, 0)
        self.database: sqlite3.Connection
        self._room: WalRoom

    # ---- opening and closing, under the lock

    def open(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """Connect, let `prepare` look at the file (and change it), and set what durability needs. Blocks."""
        self._file_lock.acquire()
        try:
            self.database = sqlite3.connect(
                _uri(self.path, "rw"),
                uri=True,
                timeout=0,  # waiting is done here, where it can be bounded and does not block the event loop
                isolation_level=None,
                check_same_thread=False,
                cached_statements=STATEMENTS_CACHED,
            )
            try:
                prepare(self.database)
                self._room = WalRoom(self.path)
            except BaseException:
                self.database.close()
                raise
            self._file = file_of(os.stat(self.path))
        except sqlite3.Error as error:
            raise failures.store_error(error, self.path) from error
        finally:
            self._file_lock.close()

    def close(self) -> None:
        """Close the connection; the last one of all processes copies the WAL into the database. Blocks."""
        with self._turn:
            try:
                self._file_lock.acquire()
            except StoreError as error:
                logger.warning("'%s' is closed without its lock: %s", self.path, error)
            try:
                self._room.close()
                self.database.close()
            finally:
                self._file_lock.close()
                self.broken = self.broken or StoreError(f"'{self.path}' is closed")

    # ---- transactions

    def try_begin(self) -> bool:
        """Begin a transaction if no other writer is in the way. Never waits."""
        if not self._turn.acquire(blocking=False):
            return False
        is_begun = False
        try:
            is_begun = self._begin()
        finally:
            if not is_begun:
                self._turn.release()
        return is_begun

    @property
    def is_in_use(self) -> bool:
        """True while somebody works with this connection."""
        return self._turn.locked()

    def begin(self) -> None:
        """Begin a transaction, after the other writers. Blocks; raises StoreUnavailableError after a long wait."""
        give_up_at = time.monotonic() + WAIT_S_MAX
        if not self._turn.acquire(timeout=WAIT_S_MAX):
            raise locked_out(self.path)
        try:
            while not self._begin():
                if time.monotonic() > give_up_at:
                    raise locked_out(self.path)
                time.sleep(PAUSE_S)
        except BaseException:
            self._turn.release()
            raise

    def _begin(self) -> bool:
        if self.broken is not None:
            raise self.broken
        try:
            is_locked = self._file_lock.try_acquire()
        except StoreError:
            self._check_file()  # says so if the database itself is gone
            raise
        if not is_locked:
            return False
        try:
            self._check_file()
            self.database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._file_lock.release()
            if failures.is_of_another_writer(error):  # another program, which does not know of the lock file
                return False
            raise self.failure_of(error) from error
        except BaseException:
            self._file_lock.release()
            raise
        return True

    def _check_file(self) -> None:
        try:
            is_there = file_of(os.stat(self.path)) == self._file
        except FileNotFoundError:
            is_there = False
        if not is_there:
            self.broken = StoreError(
                f"'{self.path}' was removed or replaced while this process used it: nothing more is written; start again"
            )
            raise self.broken

    def commit(self) -> None:
        """Make the transaction durable. If that fails it is undone, as far as anybody can know."""
        began = time.perf_counter()
        self._room.keep()
        try:
            self.database.execute("COMMIT")
        except sqlite3.Error as error:
            failed = self.failure_of(error)
            self.rollback()
            raise failed from error
        self._commits += 1
        self.commit_s_average += (time.perf_counter() - began - self.commit_s_average) * 0.2

    def rollback(self) -> None:
        """Undo the transaction. Never raises."""
        try:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
        except sqlite3.Error as error:
            logger.warning("'%s': rollback failed: %s", self.path, error)

    def end(self) -> None:
        """Give the locks up, after `commit` or `rollback`."""
        self._file_lock.release()
        self._turn.release()

    def failure_of(self, error: sqlite3.Error) -> StoreError:
        """Return the contract's error for one of SQLite's; one of the disk is the end of this connection."""
        if failures.is_of_the_disk(error):
            self.broken = failures.broken(self.path, error)
            logger.error("%s", self.broken)
            return self.broken
        return failures.store_error(error, self.path)

    # ---- the WAL

    @property
    def is_checkpoint_due(self) -> bool:
        """True when the WAL has probably grown over its limit, by what the last checkpoint saw of the commits before."""
        return self._commits * self._frames_per_commit > FRAMES_MAX

    def checkpoint(self) -> None:
        """Copy the WAL into the database, as far as no reader needs it; between `commit` and `end`. Blocks.

        By hand, because SQLite's automatic checkpoint hides an error of the disk.
        """
        if self.broken is not None:
            return
        try:
            _, frames, copied = self.database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            if not failures.is_of_another_writer(error):
                logger.warning("'%s': its WAL could not be copied: %s", self.path, self.failure_of(error))
            return
        self._frames_per_commit = max(1.0, frames / max(1, self._commits))
        # What a reader kept from being copied is still there; look again soon, but not at once.
        self._commits = min(self._commits // 2, int((frames - copied) / self._frames_per_commit))

    def data_version(self) -> int | None:
        """Return a number that changes when any other connection commits; None while this one is busy."""
        if self.broken is not None or not self._turn.acquire(blocking=False):
            return None
        try:
            return int(self.database.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None
        finally:
            self._turn.release()


def make_durable(database: sqlite3.Connection, path: str) -> None:
    """Set what a commit must be: in the WAL, and on the disk before it is acknowledged. Read both back."""
    journal = str(database.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    database.execute("PRAGMA synchronous = FULL")
    synchronous = database.execute("PRAGMA synchronous").fetchone()[0]
    if journal != "wal" or synchronous != FULL:
        raise StoreError(
            f"'{path}' cannot be made durable (journal_mode={journal}, synchronous={synchronous}): "
            "SQLite's WAL needs a local disk; a network or read-only file system will not do"
        )
    database.execute("PRAGMA mmap_size = 0")  # an I/O error in mapped memory is a signal that nobody can handle
    database.execute("PRAGMA wal_autocheckpoint = 0")  # see WriteConnection.checkpoint
    database.execute(f"PRAGMA journal_size_limit = {BYTES_MAX}")
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    database.execute("PRAGMA temp_store = MEMORY")  # savepoints keep the pages that they may have to restore
    if sys.platform == "darwin":
        database.execute("PRAGMA fullfsync = ON")  # there, fsync alone does not reach the disk
        database.execute("PRAGMA checkpoint_fullfsync = ON")
