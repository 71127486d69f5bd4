"""Where large payloads lie that are kept outside of the history: in a folder, in memory, or wherever somebody lets them.

A payload store keeps bytes under names and decides nothing. Which names are in use, and when one may go, is for
`durable.offloading` to know. A name is made of parts that a slash parts, each of the letters in `NAME_PART`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from durable.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

NAME_PART: Final = re.compile(r"[0-9A-Za-z_%~-][0-9A-Za-z_%~.-]{0,250}")
"""What a part of a name is made of. It never begins with a dot, so that no name leads out of its folder."""

UNFINISHED: Final = ".part"
"""What a file's name ends with until it is whole."""

MARKER: Final = ".durable-payloads"
"""A file that lies in the folder from the first opening on. Where it is not, another folder is: a volume is not mounted."""

THREADS_MAX: Final = 4

MAKES_MAX: Final = 10
"""A run's folder may be removed, being empty, at the very moment at which a payload is to be put into it: so often in turn."""


class PayloadStore(Protocol):
    """Keeps bytes under names. A call is safe to repeat. Each may raise StoreUnavailableError (try later) or StoreError."""

    async def open(self) -> None:
        """Get ready. Raises StoreError, with a remedy, for a place that is not there or not ours."""
        ...

    async def close(self) -> None:
        """Let go of whatever it holds. Several workers and clients of a process may share one store: it may be opened again."""
        ...

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        """Store payloads by name, each as a whole or not at all. On return they survive a loss of power."""
        ...

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        """Return what lies under each name, in order, or its first `bytes_max` bytes; None where there is nothing."""
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Remove what lies under these names; one that is not there is no error."""
        ...

    async def names(self, prefix: str, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return at most `limit` names below `prefix` (whole parts, ending in a slash) in an order of the store's own.

        The order stays the same; `after`: the name to go on behind, which need not be there any longer.
        """
        ...


class Guarded:
    """A payload store as a provider uses it: whatever else it raises becomes a StoreUnavailableError, and is tried again.

    It may be anybody's, on top of a library with errors of its own; one of these in a worker's loops would end the worker.
    """

    def __init__(self, store: PayloadStore) -> None:
        self._store = store

    async def open(self) -> None:
        """See `PayloadStore`."""
        await self._safely(self._store.open())

    async def close(self) -> None:
        """See `PayloadStore`."""
        await self._safely(self._store.close())

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        """See `PayloadStore`."""
        await self._safely(self._store.put(payloads))

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        """See `PayloadStore`."""
        return await self._safely(self._store.get(names, bytes_max))

    async def remove(self, names: Sequence[str]) -> None:
        """See `PayloadStore`."""
        await self._safely(self._store.remove(names))

    async def names(self, prefix: str, after: str = "", limit: int = 1000) -> Sequence[str]:
        """See `PayloadStore`."""
        return await self._safely(self._store.names(prefix, after, limit))

    async def _safely(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except StoreError:
            raise
        except Exception as error:
            raise StoreUnavailableError(
                f"the payload store {self._store!r:.200} has failed: {type(error).__name__}: {error}"
            ) from error


def _sort_key(name: str) -> list[str]:
    return name.split("/")


class MemoryPayloads:
    """Payloads in this process's memory, for tests: share one object between all workers and clients of the hub."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def open(self) -> None:
        """See `PayloadStore`."""

    async def close(self) -> None:
        """See `PayloadStore`."""

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        """See `PayloadStore`."""
        self.held.update(payloads)

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        """See `PayloadStore`."""
        return [None if (data := self.held.get(name)) is None else data[:bytes_max] for name in names]

    async def remove(self, names: Sequence[str]) -> None:
        """See `PayloadStore`."""
        for name in names:
            self.held.pop(name, None)

    async def names(self, prefix: str, after: str = "", limit: int = 1000) -> Sequence[str]:
        """See `PayloadStore`."""
        found = sorted((name for name in self.held if name.startswith(prefix)), key=_sort_key)
        return [name for name in found if not after or _sort_key(name) > _sort_key(after)][:limit]


class FolderPayloads:
    """Payloads as files of a folder, which all machines of the hub see under the same or another path.

    `path`: the folder; it is created, but what it lies in must be there. Several hubs may share one. A file is written
    beside its name, synced, renamed, and its folder synced, before anything refers to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = Path(path).absolute()
        self._threads: ThreadPoolExecutor | None = None
        self._openings = 0
        self._synced: set[Path] = set()

    def __repr__(self) -> str:
        return f"FolderPayloads({str(self._root)!r})"

    async def open(self) -> None:
        """See `PayloadStore`. Raises StoreError where the folder cannot be made or written."""
        self._openings += 1
        if self._threads is None:  # of its own: users' code may keep all of the loop's threads waiting for a commit
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="durable-payloads")
        try:
            await self._run(self._prepare)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `PayloadStore`."""
        self._openings = max(self._openings - 1, 0)
        if self._openings == 0 and self._threads is not None:
            threads, self._threads = self._threads, None
            threads.shutdown()  # nobody waits for anything any longer

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        """See `PayloadStore`."""
        files = {self._named(name): data for name, data in payloads.items()}
        # Side by side: a file system writes what several wait for at one time.
        await asyncio.gather(*(self._run(functools.partial(self._write, *file)) for file in files.items()))
        folders = self._unsynced(files)
        await asyncio.gather(*(self._run(functools.partial(_sync, folder)) for folder in folders))
        self._synced.update(folder for folder in folders if folder == self._root or folder.parent == self._root)

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        """See `PayloadStore`."""
        found: list[bytes | None] = await self._run(lambda: [self._read(name, bytes_max) for name in names])
        return found

    async def remove(self, names: Sequence[str]) -> None:
        """See `PayloadStore`."""
        await self._run(functools.partial(self._remove, names))

    async def names(self, prefix: str, after: str = "", limit: int = 1000) -> Sequence[str]:
        """See `PayloadStore`."""
        found: list[str] = await self._run(functools.partial(self._listed, prefix, after, limit))
        return found

    async def _run(self, work: Callable[[], Any]) -> Any:
        if self._threads is None:
            raise StoreError(f"the payloads in {self._root} are not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            raise StoreUnavailableError(f"the folder of payloads cannot be used: {error}") from error

    def _prepare(self) -> None:
        try:
            self._root.mkdir(exist_ok=True)
            (self._root / MARKER).touch()
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise StoreError(
                f"the folder of payloads {self._root} cannot be made ({error.strerror}): create it, or the folder that it "
                "is to lie in, and let every worker and client of the hub write there"
            ) from error
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreError(f"the folder of payloads {self._root} may not be written: change its owner or its mode")

    def _path(self, name: str) -> Path | None:
        parts = name.split("/")
        return self._root.joinpath(*parts) if all(map(NAME_PART.fullmatch, parts)) else None

    def _named(self, name: str) -> Path:
        path = self._path(name)
        if path is None:
            raise StoreError(f"{name!r:.300} is no name of a payload")
        return path

    def _write(self, path: Path, data: bytes) -> None:
        self._check_there()
        for attempt in range(MAKES_MAX):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(path, data)
                return
            except FileNotFoundError:
                if attempt == MAKES_MAX - 1:
                    raise

    def _unsynced(self, paths: Iterable[Path]) -> list[Path]:
        """Return the folders in which there may be an entry that a loss of power would take away.

        A run's own folder may have been made by another process, which has not synced it: so the two that a file lies in are
        always among them. Those above are never removed, and once synced they stay.
        """
        found: dict[Path, None] = {}
        for path in paths:
            parents = [parent for parent in path.parents if parent == self._root or self._root in parent.parents]
            found.update(dict.fromkeys(parents[:2]))
            found.update((parent, None) for parent in parents[2:] if parent not in self._synced)
        return list(found)

    def _check_there(self) -> None:
        if not (self._root / MARKER).exists():
            raise StoreUnavailableError(
                f"the folder of payloads {self._root} is not what it was when it was opened: {MARKER} is missing in it. "
                "Is its volume mounted?"
            )

    def _read(self, name: str, bytes_max: int | None) -> bytes | None:
        path = self._path(name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                return file.read(-1 if bytes_max is None else bytes_max)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_there()  # nothing is called lost because a volume is not mounted
            return None

    def _remove(self, names: Sequence[str]) -> None:
        folders: set[Path] = set()
        for name in names:
            path = self._path(name)
            if path is not None:
                path.unlink(missing_ok=True)
                folders.add(path.parent)
        for folder in folders - {self._root}:
            try:
                folder.rmdir()
            except OSError:
                pass  # there is more in it, or it is gone

    def _listed(self, prefix: str, after: str, limit: int) -> list[str]:
        parts = prefix.rstrip("/").split("/")
        after_parts = _sort_key(after)[len(parts) :] if after.startswith(prefix) else []
        path = self._path("/".join(parts))
        names = iter(()) if path is None else _walk(path, after_parts)
        return [f"{prefix}{name}" for name, _ in zip(names, range(limit), strict=False)]


def _walk(folder: Path, after: Sequence[str]) -> Iterator[str]:
    """Yield the files below a folder in the order of their parts, those behind `after` only."""
    try:
        entries = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    first = after[0] if after else ""
    for entry in entries:
        if entry < first:
            continue
        path = folder / entry
        if path.is_dir():
            yield from (f"{entry}/{name}" for name in _walk(path, after[1:] if entry == first else ()))
        elif entry > first:
            yield entry


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _sync(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # it was removed by somebody else meanwhile, being empty: so nothing that counts lay in it
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
