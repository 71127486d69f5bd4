"""Payload stores keep what they are given, whole and durable, and list it in one order.

Method: the same promises for the folder and for the memory that tests use; and the order in which a folder's files are synced.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from durable import FolderPayloads, MemoryPayloads, PayloadStore, StoreError, StoreUnavailableError

KINDS: dict[str, Callable[[Path], PayloadStore]] = {
    "folder": lambda path: FolderPayloads(path / "payloads"),
    "memory": lambda path: MemoryPayloads(),
}


@asynccontextmanager
async def opened(store: PayloadStore) -> AsyncIterator[PayloadStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_put_is_got_until_it_is_removed(kind: str, tmp_path: Path) -> None:
    async with opened(KINDS[kind](tmp_path)) as store:
        await store.put({"hub/00/run/r0.0-a": b"one", "hub/00/run/r0.1-b": b"", "hub/ff/other/input-c": b"x" * 100_000})
        assert await store.get(["hub/00/run/r0.1-b", "hub/00/run/none", "hub/00/run/r0.0-a"]) == [b"", None, b"one"]
        assert await store.get(["hub/ff/other/input-c", "hub/00/run"], 5) == [b"xxxxx", None]
        await store.put({"hub/00/run/r0.0-a": b"one"})
        await store.remove(["hub/00/run/r0.0-a", "hub/00/run/none", "hub/00/run/r0.1-b"])
        assert await store.names("hub/") == ["hub/ff/other/input-c"]
        await store.put({"hub/00/run/r0.2-d": b"again"})
        assert await store.get(["hub/00/run/r0.2-d"]) == [b"again"]


@pytest.mark.parametrize("kind", KINDS)
async def test_names_come_in_pages_that_lose_and_repeat_nothing(kind: str, tmp_path: Path) -> None:
    names = {
        f"hub/00/{run}/{what}" for run in ("a", "a%2E", "a-b", "b", "z~") for what in ("input-1", "r0.0-1", "r10.2-9")
    }
    async with opened(KINDS[kind](tmp_path)) as store:
        await store.put(dict.fromkeys(names | {"hub/01/a/r0.0-1", "hub2/00/a/r0.0-1"}, b"data"))
        for limit in (1, 2, 7, 100):
            found: list[str] = []
            while page := await store.names("hub/00/", found[-1] if found else "", limit):
                assert len(page) <= limit
                found += page
                await store.remove(page[-1:])  # what was gone behind need not be there any longer
                await store.put({page[-1]: b"data"})
            assert sorted(found) == sorted(names)
        assert await store.names("hub/00/a/", "", 100) == [
            f"hub/00/a/{what}" for what in ("input-1", "r0.0-1", "r10.2-9")
        ]
        assert await store.names("hub/77/") == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file a descriptor is of")
async def test_a_file_is_whole_and_synced_before_it_has_its_name_and_its_folders_are_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        told.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noting_replace(path: Path, target: Any) -> Path:
        told.append(("rename", Path(target).name))
        return replace(path, target)

    async with opened(FolderPayloads(tmp_path / "payloads")) as store:
        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(Path, "replace", noting_replace)
        await store.put({"hub/00/run/r0.0-a": b"data"})
    assert told[:2] == [("sync", "r0.0-a.part"), ("rename", "r0.0-a")]
    assert {name for _, name in told[2:]} == {"payloads", "hub", "00", "run"}
    assert {what for what, _ in told[2:]} == {"sync"}


async def test_no_name_leads_out_of_the_folder_and_a_wrong_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    async with opened(FolderPayloads(tmp_path / "payloads")) as store:
        for name in ("../secret", "hub/../../secret", "/etc/hostname", "", "hub//x", ".hidden", "hub/a\0b"):
            assert await store.get([name]) == [None]
            assert await store.names(f"{name}/") == []
            await store.remove([name])
            with pytest.raises(StoreError, match="no name of a payload"):
                await store.put({name: b"data"})
    assert (tmp_path / "secret").exists()
    for place in (tmp_path / "missing" / "payloads", tmp_path / "secret"):
        with pytest.raises(StoreError, match="cannot be made"):
            await FolderPayloads(place).open()
    store = FolderPayloads(tmp_path / "payloads")
    with pytest.raises(StoreError, match="not open"):
        await store.get(["hub/x"])
    async with opened(store):
        (tmp_path / "payloads").rename(tmp_path / "unmounted")
        (tmp_path / "payloads").mkdir()
        for asked in (store.put({"hub/x": b""}), store.get(["hub/x"])):
            with pytest.raises(StoreUnavailableError, match="mounted"):
                await asked
        assert not list((tmp_path / "payloads").iterdir())
