"""Which files are indexed, and what is counted in one: plain functions that know nothing of orchestrations."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = frozenset({".cfg", ".ini", ".md", ".py", ".pyi", ".rst", ".sh", ".toml", ".txt", ".yaml", ".yml"})
FILE_BYTES_MAX = 4 * 1024 * 1024  # larger files are data, not text
FILES_MAX = 20_000  # more would not fit into the minute that the demo promises
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules", "build", "dist"})


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is known of one file, one folder, or all of them. `sha256` of more than one is that of their digests."""

    files: int
    lines: int
    words: int
    size: int
    sha256: str


def text_files(folder: str) -> list[str]:
    """Return the sorted names of the readable text files directly in a folder."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_text_file(entry))


def _is_text_file(entry: os.DirEntry[str]) -> bool:
    return (
        Path(entry.name).suffix in SUFFIXES
        and entry.name.isprintable()  # a name that is no text cannot be a payload
        and entry.is_file(follow_symlinks=False)
        and entry.stat(follow_symlinks=False).st_size <= FILE_BYTES_MAX
        and os.access(entry.path, os.R_OK)
    )


def folders_with_text(roots: Iterable[str]) -> list[str]:
    """Return the sorted paths of all folders below `roots` that hold a text file, hidden and generated ones left out."""
    return sorted({folder for root in roots for folder in _walk(root) if text_files(folder)})


def _walk(root: str) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        if "pyvenv.cfg" in names and folder != root:  # somebody's virtual environment
            below.clear()
            continue
        below[:] = [name for name in below if _is_wanted(name)]
        if os.access(folder, os.R_OK | os.X_OK):
            yield folder


def _is_wanted(folder_name: str) -> bool:
    return not folder_name.startswith(".") and folder_name not in SKIPPED_FOLDERS and folder_name.isprintable()


def count_file(path: str) -> Counts:
    """Read one file and count it. Works on bytes, so that no encoding can be wrong."""
    content = Path(path).read_bytes()
    return Counts(1, content.count(b"\n"), len(content.split()), len(content), hashlib.sha256(content).hexdigest())


def add_up(parts: Iterable[Counts]) -> Counts:
    """Sum up counts; the digest depends on their order."""
    files = lines = words = size = 0
    digest = hashlib.sha256()
    for part in parts:
        files, lines, words, size = files + part.files, lines + part.lines, words + part.words, size + part.size
        digest.update(bytes.fromhex(part.sha256))
    return Counts(files, lines, words, size, digest.hexdigest())


def count_everything(roots: Iterable[str]) -> Counts:
    """Count all text files below `roots` in one plain loop: what the orchestration must arrive at."""
    return add_up(
        add_up(count_file(os.path.join(folder, name)) for name in text_files(folder))
        for folder in folders_with_text(roots)
    )


def changed_since(roots: Iterable[str], moment: float) -> list[str]:
    """Return the text files below `roots` that were written after `moment` (seconds since 1970)."""
    paths = (os.path.join(folder, name) for folder in folders_with_text(roots) for name in text_files(folder))
    return [path for path in paths if os.stat(path).st_mtime >= moment]
