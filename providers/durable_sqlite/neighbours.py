"""How processes that share a file wake one another: each has a pipe beside it, into which the others write what they did.

Theory. The pipes lie in a folder that is named after the database, one for each object that listens to a hub. Whoever has
committed writes lines into all of its hub but those of its own process: names only (`durable.news`), each line so short that
a pipe takes it whole. What a full pipe cannot take is lost, and its reader is told so by the next line, or soon. A pipe that
nobody reads any more is removed by whoever finds that. All of it is a short cut: that the file was changed shows in the file
itself, at which `FileWatch` looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import select
import stat
import time
import weakref
from collections.abc import Callable, Sequence

from durable.news import News, origin
from durable_sqlite.filelock import mode_beside

logger = logging.getLogger("durable.sqlite")

LINE_BYTES_MAX = select.PIPE_BUF - 1
"""So much, and the end of the line, is written whole or not at all, whoever else writes."""

READ_BYTES = 65_536

SETTLED_S = 0.1
"""A folder that was changed longer ago than this is as it was read: file systems count time in steps of milliseconds."""

_UNFINISHED = "new-"
_MAKE_MAX = 10

_numbers = itertools.count()
_open_pipes: weakref.WeakSet[Pipe] = weakref.WeakSet()


def folder_of(path: str) -> str:
    """Return the folder of a database's pipes."""
    return path + ".wake"


class Pipe:
    """Into which others write, for one that listens to a hub. `tell(line)` is called in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, hub: int, tell: Callable[[str], None]) -> None:
        """Make it. Raises OSError where that cannot be."""
        self._loop = loop
        self._tell = tell
        self._rest = b""
        self._path, self._descriptor = _make(folder_of(path), f"{hub}-{origin()}-{next(_numbers)}", mode_beside(path))
        try:
            loop.add_reader(self._descriptor, self._read)
        except BaseException:  # a loop that cannot
            self._remove()
            raise
        _open_pipes.add(self)

    def _read(self) -> None:
        try:
            found = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + found).split(b"\n")
        for line in lines:
            self._tell(line.decode(errors="replace"))

    def close(self) -> None:
        """Remove it, and the folder with the last one."""
        if self._descriptor < 0:
            return
        self._loop.remove_reader(self._descriptor)
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):  # it is another's too
            os.rmdir(os.path.dirname(self._path))
        self.let_go()

    def let_go(self) -> None:
        """Only close it, as a forked child does with its parent's."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _make(folder: str, name: str, mode: int) -> tuple[str, int]:
    """Make a pipe and open it; return its path and descriptor. Only an open one has its name: others would be removed.

    `mode`: whoever may write to the database may write into the pipe.
    """
    new, path = os.path.join(folder, _UNFINISHED + name), os.path.join(folder, name)
    for last in range(_MAKE_MAX):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
                os.chmod(folder, mode | (mode & 0o444) >> 2)  # who may read it may look into it
            os.mkfifo(new, 0o600)
            break
        except FileNotFoundError:  # whoever was the last has just removed the folder
            if last == _MAKE_MAX - 1:
                raise
    descriptor = -1
    try:
        # For writing too, so that it does not end with the last of those who write.
        descriptor = _open(new, os.O_RDWR)
        os.fchmod(descriptor, 0o600 | (mode & 0o022))  # others may write; what they read would not be heard
        os.rename(new, path)
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        os.unlink(new)
        raise
    return path, descriptor


def _open(path: str, how: int) -> int:
    """Open a pipe. Raises OSError for anything else: the folder may be another user's, who could let us write elsewhere."""
    descriptor = os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no pipe", path)
    return descriptor


class Neighbours:
    """The pipes of other processes, for one that writes to a hub."""

    def __init__(self, path: str, hub: int) -> None:
        self._folder = folder_of(path)
        self._hub = f"{hub}-"
        self._own = f"{hub}-{origin()}-"
        self._names: Sequence[str] = ()
        self._changed_at: int | None = None  # when the folder was, as it was read
        self._descriptors: dict[str, int] = {}
        self._behind: set[str] = set()  # which could not take a line

    def names(self) -> Sequence[str]:
        """Return their names."""
        try:
            changed_at = os.stat(self._folder).st_mtime_ns
        except OSError:
            changed_at = -1
        if changed_at != self._changed_at:
            self._names = self._read() if changed_at >= 0 else ()
            is_settled = time.time_ns() - changed_at > SETTLED_S * 1e9
            self._changed_at = changed_at if is_settled else None
            for name in self._descriptors.keys() - set(self._names):
                self._forget(name)
        return self._names

    def _read(self) -> Sequence[str]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return ()
        return [name for name in names if name.startswith(self._hub) and not name.startswith(self._own)]

    def tell(self, news: News) -> None:
        """Tell them. Never blocks, and never raises."""
        lines: Sequence[bytes] = ()
        for name in self.names():
            lines = lines or [f"{line}\n".encode() for line in news.lines(LINE_BYTES_MAX)]
            self._write(name, lines)

    @property
    def are_behind(self) -> bool:
        """True while some could not take a line, and were not told so."""
        return bool(self._behind)

    def remind(self) -> None:
        """Tell those that have missed something to look at everything, if they can take it now."""
        for name in list(self._behind):
            self._write(name, ())

    def _write(self, name: str, lines: Sequence[bytes]) -> None:
        try:
            descriptor = self._descriptors.get(name)
            if descriptor is None:
                descriptor = self._descriptors[name] = _open(os.path.join(self._folder, name), os.O_WRONLY)
            if name in self._behind:  # it has missed something, and is to look at everything
                lines = [f"{line}\n".encode() for line in News(leases=True).lines(LINE_BYTES_MAX)]
            for line in lines:
                os.write(descriptor, line)
            self._behind.discard(name)
        except BlockingIOError:
            self._behind.add(name)
        except OSError as error:
            self._forget(name)
            if error.errno in (errno.ENXIO, errno.EPIPE):  # nobody reads it
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._folder, name))
            elif error.errno != errno.ENOENT:  # another user's, or no pipe
                logger.debug("'%s' in '%s' is not told what changes: %s", name, self._folder, error)

    def _forget(self, name: str) -> None:
        self._behind.discard(name)
        descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the pipes."""
        for name in list(self._descriptors):
            self._forget(name)


def _let_go_in_child() -> None:
    # A forked child would keep pipes of a parent that died open, and nobody would remove them.
    for pipe in list(_open_pipes):
        pipe.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)
