"""What a power cut may leave of files, given what was asked of the disk before it.

The model: what was synced is there. Of what was written since the last sync of a file each write may be there, be lost, or be
torn, in any combination: of a torn write each sector (512 or 4,096 bytes) is there or not, and bytes around what was
written stay as they were (SQLite's "powersafe overwrite", which it assumes by default). Where a file was made longer, what
was lost reads as zeros or as garbage. A cut of a file may have happened or not. A new file is in its folder for certain once
itself or the folder was synced, and a deleted one is gone for certain once the folder was synced; before that it may be
there, as it was last.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.power_loss.recorder import Deleted, Entry, Mark, Opened, Synced, Truncated, Written

Change = Written | Truncated


@dataclasses.dataclass
class _File:
    durable: bytearray
    pending: list[Change] = dataclasses.field(default_factory=list)
    is_entered: bool = True  # its entry in the folder is durable
    syncs_folder: bool = False  # with its next sync
    former: _File | None = None  # what the folder holds if its entry is not durable


class Disk:
    """The files of one folder as entries of a log are applied; `cut` makes an image of what a power cut would leave now."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: what was there before, and is durable."""
        self._files: dict[str, _File | None] = {name: _File(bytearray(data)) for name, data in files.items()}
        self._deleted: dict[str, _File] = {}  # of which the folder does not know for certain

    def apply(self, entry: Entry) -> None:
        """Take the next entry of the log."""
        match entry:
            case Opened():
                self._open(os.path.basename(entry.path), entry)
            case Written() | Truncated():
                self._file(entry.path).pending.append(entry)
            case Synced():
                self._sync(self._file(entry.path))
            case Deleted():
                self._delete(os.path.basename(entry.path), is_durable=entry.is_durable)
            case Mark():
                pass

    def _file(self, path: str) -> _File:
        file = self._files[os.path.basename(path)]
        assert file is not None, f"{path} was deleted"
        return file

    def _open(self, name: str, entry: Opened) -> None:
        if self._files.get(name) is None:
            # A file that was there before SQLite opened it was made by the provider, empty.
            self._files[name] = _File(
                bytearray(), is_entered=False, syncs_folder=entry.syncs_folder, former=self._deleted.pop(name, None)
            )

    def _sync(self, file: _File) -> None:
        for change in file.pending:
            _apply(file.durable, change, zeros)
        file.pending = []
        file.is_entered, file.former = True, None
        if file.syncs_folder:
            file.syncs_folder = False
            self._sync_folder()

    def _sync_folder(self) -> None:
        self._deleted.clear()
        for file in self._files.values():
            if file is not None:
                file.is_entered, file.former = True, None

    def _delete(self, name: str, *, is_durable: bool) -> None:
        file = self._files.pop(name, None)
        if is_durable:
            self._sync_folder()
        elif file is not None:
            left = file if file.is_entered else file.former
            if left is not None:
                self._deleted[name] = left

    def cut(self, chance: random.Random) -> dict[str, bytes]:
        """Return the files that a power cut leaves now: one of the many possible sets, as `chance` decides."""
        fate = _FATES[chance.randrange(len(_FATES))](chance)
        fill = chance.choice((zeros, chance.randbytes))
        sector = chance.choice((512, 4096))
        image: dict[str, bytes] = {}
        for name, file in self._files.items():
            present = file
            if file is not None and not file.is_entered and chance.random() < 0.5:
                present = file.former
            if present is not None:
                image[name] = _content(present, chance, fate, fill, sector)
        for name, file in self._deleted.items():
            if chance.random() < 0.5:
                image[name] = _content(file, chance, fate, fill, sector)
        return image


def zeros(count: int) -> bytes:
    """Return so many zero bytes."""
    return bytes(count)


Fate = Callable[[int, int], float]
"""Given the place of a change among those that are not synced, and their number: how much of it is there, 0.0 to 1.0."""

_FATES: tuple[Callable[[random.Random], Fate], ...] = (
    lambda chance: lambda place, count: 0.0,
    lambda chance: lambda place, count: 1.0,
    lambda chance: lambda place, count: float(chance.random() < 0.5),
    lambda chance: lambda place, count: chance.choice((0.0, 0.5, 1.0)),
    lambda chance: lambda place, count: 0.9,
    lambda chance: lambda place, count: 1.0 if place < count - 1 else 0.5,  # the last one torn
    lambda chance: lambda place, count: float(place > 0),  # the first one lost
    lambda chance: lambda place, count: float(place >= count // 2),  # the older half lost
)


def _content(file: _File, chance: random.Random, fate: Fate, fill: Callable[[int], bytes], sector: int) -> bytes:
    content = bytearray(file.durable)
    count = len(file.pending)
    for place, change in enumerate(file.pending):
        share = fate(place, count)
        if share == 1.0:
            _apply(content, change, fill)
        elif isinstance(change, Truncated):
            if chance.random() < share:
                _apply(content, change, fill)
        else:
            if chance.random() < 0.3:  # the file has grown, though what made it grow is lost
                _extend(content, change.offset + len(change.data), fill)
            if share > 0.0:
                for part in _torn(change, chance, share, sector):
                    _apply(content, part, fill)
    return bytes(content)


def _torn(change: Written, chance: random.Random, share: float, sector: int) -> Iterable[Written]:
    """Return what there is of a torn write."""
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        if chance.random() < share:
            yield Written(change.path, start, change.data[start - change.offset : stop - change.offset])
        start = stop


def _apply(content: bytearray, change: Change, fill: Callable[[int], bytes]) -> None:
    if isinstance(change, Truncated):
        del content[change.size :]
        return
    _extend(content, change.offset, fill)
    content[change.offset : change.offset + len(change.data)] = change.data


def _extend(content: bytearray, size: int, fill: Callable[[int], bytes]) -> None:
    if len(content) < size:
        content += fill(size - len(content))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by name; what lies in folders inside of it is no part of a database."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with these files."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
