"""Records what SQLite asks of the disk: each write, truncation, sync and deletion, in order.

A shim around SQLite's own VFS, made with ctypes in the very library that the `sqlite3` module uses, and registered as the
default while a recording runs. So the provider under test is the real one, unchanged, on the SQLite that users have; no
compiler, no further dependency and no tracing rights are needed. (apsw, which can write a VFS in Python, brings a SQLite of
its own and another interface; the provider would have to be driven through an imitation of `sqlite3`.) Where the `sqlite3`
module hides its library (it is linked in, without symbols), `find_library` says so, and the tests are skipped.

Syncs are recorded and not carried out: the file is real, but only the model of `disk` tells what a power cut leaves.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

SQLITE_OK = 0
SQLITE_IOERR = 10
OPEN_MAIN_JOURNAL, OPEN_WAL = 0x00000800, 0x00080000

# The name is passed on as the pointer that it is: SQLite keeps it, with the parameters of a URI behind it.
_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_CLOSE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`; what is not hooked is only copied."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("path_bytes_max", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("app_data", ctypes.c_void_p),
        ("open", _OPEN),
        ("delete", _DELETE),
        ("others", ctypes.c_void_p * 14),
    )


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods` of version 3."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _CLOSE),
        ("read", ctypes.c_void_p),
        ("write", _WRITE),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        ("others", ctypes.c_void_p * 13),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A file was opened, and made if it was not there. `syncs_folder`: its first sync brings its folder's entries along."""

    path: str
    is_new: bool
    syncs_folder: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """Bytes were written at an offset."""

    path: str
    offset: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Truncated:
    """A file was cut to a size."""

    path: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Synced:
    """All of a file was brought to the disk."""

    path: str


@dataclasses.dataclass(frozen=True, slots=True)
class Deleted:
    """A file was removed; with `is_durable` its folder was synced."""

    path: str
    is_durable: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """Something that the one who records wants to find again at this place."""

    what: str
    value: Any = None


Entry = Opened | Written | Truncated | Synced | Deleted | Mark


def find_library() -> ctypes.CDLL | None:
    """Return the SQLite of the `sqlite3` module, or None where its functions cannot be reached."""
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))  # a symbol is looked for in what it is linked with, too
    if not all(hasattr(library, name) for name in ("sqlite3_vfs_find", "sqlite3_vfs_register")):
        return None
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), ctypes.c_int]
    library.sqlite3_vfs_unregister.argtypes = [ctypes.POINTER(_Vfs)]
    return library


_kept: list[Any] = []
"""SQLite holds pointers to these as long as it likes."""


class Recorder:
    """While it is entered, everything that SQLite does to files below `folder` is appended to `log`."""

    def __init__(self, folder: Path) -> None:
        library = find_library()
        assert library is not None, "ask find_library first"
        self.log: list[Entry] = []
        self.failures: list[BaseException] = []
        self._folder = os.path.realpath(folder)
        self._library = library
        self._original = library.sqlite3_vfs_find(None)
        self._paths: dict[int, str] = {}
        self._tables: dict[int, tuple[_Methods, _Methods]] = {}
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._original, ctypes.sizeof(_Vfs))
        self._vfs.name = b"recorder-%d" % id(self)
        self._vfs.next = None
        self._vfs.open = _OPEN(self._guarded(self._open))
        self._vfs.delete = _DELETE(self._guarded(self._delete))
        _kept.append(self)

    def mark(self, what: str, value: Any = None) -> None:
        """Note that something has happened now."""
        self.log.append(Mark(what, value))

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        """Note what was written beside SQLite, to a file that it has open."""
        self.log.append(Written(path, offset, data))

    def __enter__(self) -> Recorder:
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.sqlite3_vfs_register(self._original, 1)
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
        assert not self.failures, self.failures
        assert not self._paths, f"still open: {sorted(self._paths.values())}"

    # ---- what SQLite calls, from any thread

    def _guarded(self, function: Callable[..., int]) -> Callable[..., int]:
        """An exception cannot pass through C: keep it, and tell SQLite that the disk has failed."""

        def call(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException as error:
                self.failures.append(error)
                return SQLITE_IOERR

        return call

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, out_flags: Any) -> int:
        path = os.fsdecode(ctypes.string_at(name)) if name else ""
        is_ours = os.path.dirname(path) == self._folder
        is_new = is_ours and not os.path.exists(path)
        original: _Vfs = self._original.contents
        status = int(original.open(ctypes.addressof(original), name, file, flags, out_flags))
        if status != SQLITE_OK or not is_ours:
            return status
        # A file begins with the pointer to its methods: it is given ours, which end in the original ones.
        methods = ctypes.c_void_p.from_address(file)
        assert methods.value is not None
        methods.value = ctypes.addressof(self._table(methods.value)[0])
        self._paths[file] = path
        self.log.append(Opened(path, is_new, bool(flags & (OPEN_WAL | OPEN_MAIN_JOURNAL)) and is_new))
        return status

    def _table(self, address: int) -> tuple[_Methods, _Methods]:
        if address not in self._tables:
            original, ours = _Methods.from_address(address), _Methods()
            assert original.version == 3, "the layout of the methods is known for version 3 only"
            ctypes.memmove(ctypes.byref(ours), address, ctypes.sizeof(_Methods))
            ours.close = _CLOSE(self._guarded(lambda file: self._close(original, file)))
            ours.write = _WRITE(self._guarded(lambda *arguments: self._write(original, *arguments)))
            ours.truncate = _TRUNCATE(self._guarded(lambda *arguments: self._truncate(original, *arguments)))
            ours.sync = _SYNC(self._guarded(self._sync))
            self._tables[address] = ours, original
        return self._tables[address]

    def _close(self, original: _Methods, file: int) -> int:
        del self._paths[file]
        return int(original.close(file))

    def _write(self, original: _Methods, file: int, data: int, size: int, offset: int) -> int:
        status = int(original.write(file, data, size, offset))
        if status == SQLITE_OK:
            self.log.append(Written(self._paths[file], offset, ctypes.string_at(data, size)))
        return status

    def _truncate(self, original: _Methods, file: int, size: int) -> int:
        status = int(original.truncate(file, size))
        if status == SQLITE_OK:
            self.log.append(Truncated(self._paths[file], size))
        return status

    def _sync(self, file: int, _flags: int) -> int:
        self.log.append(Synced(self._paths[file]))
        return SQLITE_OK

    def _delete(self, _vfs: int, name: bytes, syncs_folder: int) -> int:
        original: _Vfs = self._original.contents
        status = int(original.delete(ctypes.addressof(original), name, syncs_folder))
        path = os.fsdecode(name)
        if status == SQLITE_OK and os.path.dirname(path) == self._folder:
            self.log.append(Deleted(path, bool(syncs_folder)))
        return status
