"""A storm's store with nearly everything outside of it, in files; and what a sweep makes of these afterwards."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

from durable import FolderPayloads, offloaded_store
from durable.offloading.stores import MARKER
from durable.offloading.wrapping import OffloadedProvider
from durable.ports import system_ports
from durable.provider import Belief, Provider
from durable.stores import connect

MARK = "offloaded+"
"""What the URL of such a store begins with."""

ABOVE_BYTES = 64

ORPHANED_AFTER = timedelta(hours=1)


def opened_by(store: str, folder: Path | str) -> str | Provider:
    """Return what a worker or a client of a storm is given."""
    if not store.startswith(MARK):
        return store
    return offloaded_store(
        store.removeprefix(MARK), payloads=FolderPayloads(Path(folder, "payloads")), above=ABOVE_BYTES
    )


def files_in(folder: Path) -> set[Path]:
    """Return the files of payloads, also those that were never finished."""
    return {path for path in (folder / "payloads").rglob("*") if path.is_file() and path.name != MARKER}


async def sweep(store: str, folder: Path) -> int:
    """Let a worker go through all payloads, again and again over two hours; return how many it has removed."""
    before, seconds = files_in(folder), 0.0
    ports = dataclasses.replace(system_ports(), monotonic=lambda: seconds)
    inner = connect(store.removeprefix(MARK), ports)
    provider = OffloadedProvider(inner, FolderPayloads(folder / "payloads"), ports, orphaned_after=ORPHANED_AFTER)
    await provider.open()
    try:
        lease = await provider.lease("sweeper", b"", worker=True)
        for _ in range(2 * (len(before) // 200 + 2)):  # a step looks at 200 names
            await provider.renew(lease, belief=_none)
        seconds += 2 * ORPHANED_AFTER.total_seconds()
        for _ in range(2 * (len(before) // 200 + 2)):
            await provider.renew(lease, belief=_none)
        await provider.release(lease)
    finally:
        await provider.close()
    return len(before - files_in(folder))


def _none() -> Belief:
    return Belief(0, 0, 0)
