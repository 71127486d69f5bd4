"""Operating-system locks on files: one that serialises all writers of a database, and one that says that a worker lives.

`flock` belongs to the open file, not to the process: two objects in one process exclude each other, closing some other
file takes nothing away, and the kernel lets go when the process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from types import TracebackType

from durable.errors import StoreError, StoreUnavailableError

WAIT_S_MAX = 30.0
"""How long a writer waits for another one before it says that the store is unavailable."""

PAUSE_S_MAX = 0.005

_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file that is created where it is missing, with this mode."""

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode
        self._descriptor = -1
        self._file = (0, 0)
        _open_locks.add(self)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it. A lock file that was deleted or replaced meanwhile does not count."""
        if self._descriptor < 0:
            self._descriptor = self._open()
            self._file = file_of(os.fstat(self._descriptor))
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            if file_of(os.stat(self.path)) == self._file:
                return True
        except FileNotFoundError:
            pass
        self.close()
        return False

    def _open(self) -> int:
        try:
            return self._open_or_make()
        except PermissionError as error:
            raise StoreError(
                f"'{self.path}' may not be written by this user: give permission on it ({error})"
            ) from error
        except FileNotFoundError as error:
            raise StoreError(f"the folder of '{self.path}' is gone") from error
        except OSError as error:  # too many open files, for instance
            raise StoreUnavailableError(f"'{self.path}' cannot be opened: {error}") from error

    def _open_or_make(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, self._mode)
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchmod(descriptor, self._mode)  # the mode of the database, whatever the umask
            return descriptor

    def acquire(self, wait_s: float = WAIT_S_MAX) -> None:
        """Take the lock; raise StoreUnavailableError if another holds it for `wait_s`. Blocks."""
        give_up_at = time.monotonic() + wait_s
        pause_s = 0.0002
        while not self.try_acquire():
            if time.monotonic() >= give_up_at:
                raise locked_out(self.path)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, PAUSE_S_MAX)

    def release(self) -> None:
        """Give the lock up; the file stays open for the next time."""
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock up and close its file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def locked_out(path: str) -> StoreUnavailableError:
    """Return the error for a lock that another holder did not give up."""
    return StoreUnavailableError(
        f"'{path}' has been locked by another process for {WAIT_S_MAX:.0f} s; is one of its writers stopped or stuck?"
    )


def is_held(path: str) -> bool:
    """Tell whether somebody holds the lock on this file. A missing file is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:  # nobody can tell; the lease's end will
        return True
    try:
        # Shared, so that two who look at the same moment do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def mode_beside(path: str) -> int:
    """Return the mode for what lies beside a database: who may use that may use this."""
    try:
        return os.stat(path).st_mode & 0o666
    except FileNotFoundError:
        return 0o600


def file_of(status: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from another that has its name."""
    return status.st_dev, status.st_ino


def _let_go_in_child() -> None:
    # A forked child shares the open files; it would keep the locks of a parent that died.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_let_go_in_child)
