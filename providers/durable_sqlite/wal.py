"""Room in the WAL's file ahead of what SQLite writes.

A sync of bytes that a file has already costs about half of one that makes it longer, for which a file system commits its
journal as well (ext4 on a virtual disk: 85 and 170 µs). SQLite begins a WAL anew after a checkpoint, but makes it longer with
each commit until the first one. So the file is made longer here, with zeros, a megabyte at a time. A frame of zeros is not
valid, so that for SQLite the WAL ends where it would without them.
"""

from __future__ import annotations

import os

ROOM_BYTES = 1024 * 1024
"""Room is made up to the next multiple of this."""

BYTES_MAX = 64 * 1024 * 1024
"""A longer file is cut to this by SQLite (`journal_size_limit`), and is not made longer here."""


_ZEROS = memoryview(bytes(ROOM_BYTES))  # there before there is no memory left for it


class WalRoom:
    """Keeps the WAL of one database longer than what is in it. The caller is the one writer of the moment."""

    def __init__(self, path: str) -> None:
        """`path`: of the database, which a connection has opened in WAL mode."""
        self.path = path + "-wal"
        self._descriptor: int | None = None  # None: no room is made
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            pass  # SQLite says what is wrong with it, if anything is

    @property
    def file_bytes(self) -> int:
        """The length of the file; 0 once closed."""
        # Not by `fstat`: a file whose times somebody has looked at gets new ones with the next write, which are to be synced.
        return 0 if self._descriptor is None else os.lseek(self._descriptor, 0, os.SEEK_END)

    def keep(self) -> None:
        """Make room for the next commits if SQLite has come to the end of it: then the file does not end where room ends.

        Never raises: a disk that has no room for zeros may still have some for frames.
        """
        try:
            size = self.file_bytes
            missing = -size % ROOM_BYTES
            if not missing or size >= BYTES_MAX or self._descriptor is None:
                return
        except OSError:
            return
        try:
            os.pwrite(self._descriptor, _ZEROS[:missing], size)
        except OSError:
            self._give_back(size)

    def _give_back(self, size: int) -> None:
        descriptor = self._descriptor
        assert descriptor is not None
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            pass  # then what was written stays, as room
        self.close()

    def close(self) -> None:
        """Make no more room."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
