"""Processes that share a file wake one another: at once, by name, and if they cannot then by looking at the file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import durable_sqlite
import pytest
from durable_sqlite import watching
from durable_sqlite.neighbours import LINE_BYTES_MAX, Neighbours, Pipe

from durable import Client
from durable.news import News
from durable.ports import system_ports
from durable.provider import PARTITIONS, Provider, Wakeup
from durable.testing.conformance.store import Session, new_row, start_of, wait_for
from tests.providers.another_process import Another, another, check_what_is_heard
from tests.providers.sqlite_store import inside

LAST = b"another:l:0\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def seldom_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by looking at the file."""
    for name in ("LOOK_S_MIN", "LOOK_S_QUIET", "LOOK_S_MAX"):
        monkeypatch.setattr(watching, name, 600.0)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Provider]:
    provider = durable_sqlite.connect(url, system_ports())
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


def pipes_of(path: Path) -> list[Path]:
    folder = path.with_name(path.name + ".wake")
    return sorted(folder.iterdir()) if folder.exists() else []


def write_to(pipe: Path, data: bytes) -> None:
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("seldom_looks")
@pytest.mark.parametrize("is_owner", [True, False])
async def test_another_process_hears_what_concerns_it_and_nothing_else(url: str, path: Path, is_owner: bool) -> None:
    async with opened(url) as provider:

        async def tell_last() -> None:
            for pipe in pipes_of(path):
                write_to(pipe, LAST)

        await check_what_is_heard(url, provider, tell_last, is_owner=is_owner)


@pytest.mark.usefixtures("seldom_looks")
async def test_of_several_leases_of_one_provider_each_hears_what_is_sent_to_it(url: str, path: Path) -> None:
    async with opened(url) as provider, another(url) as other:
        first, second = [Session(provider, await provider.lease("worker", b"", worker=True)) for _ in range(2)]
        await provider.take(first.lease, range(PARTITIONS))
        await provider.renew(second.lease)
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        await other.do("start")
        await wait_for(lambda: any(wakeup.inbox for wakeup in heard))
        await provider.release(first.lease)
        await provider.take(second.lease, range(PARTITIONS))
        await provider.renew(second.lease)
        heard.clear()
        await other.do("event")
        await wait_for(lambda: any(wakeup.inbox for wakeup in heard))


@pytest.mark.usefixtures("seldom_looks")
async def test_an_end_in_another_process_is_seen_without_a_poll(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.client.waiting.INTERVAL_FIRST", 600.0)
    monkeypatch.setattr("durable.client.waiting.INTERVAL_MAX", 600.0)
    async with Client(url) as client, another(url) as other:
        await other.do("start")
        await other.do("take")
        waiting = [asyncio.create_task(client.get("instance").wait(timeout=30)) for _ in range(2)]
        await asyncio.sleep(0.05)
        await other.do("end")
        assert [state.run_id for state in await asyncio.gather(*waiting)] == ["run", "run"]


async def test_a_change_that_nobody_tells_of_is_found_by_looking(url: str, path: Path) -> None:
    async with opened(url) as provider:
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        await asyncio.sleep(0.05)
        heard.clear()
        began = time.monotonic()
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE hubs SET sequence = sequence + 1")
        await wait_for(lambda: any(wakeup.anything for wakeup in heard))
        assert time.monotonic() - began < 1.0


async def test_a_change_that_was_told_of_is_not_looked_for(url: str) -> None:
    async with opened(url) as provider, another(url) as other:
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        await other.do("start")
        await other.do("take")
        await asyncio.sleep(0.2)
        heard.clear()
        for _ in range(20):
            await other.do("status")
        await asyncio.sleep(3 * watching.UNTOLD_S)
        assert not any(wakeup.anything for wakeup in heard)
        assert {run for wakeup in heard for run in wakeup.changed} == {"run"}


async def test_what_another_object_of_this_process_writes_is_not_looked_for(url: str) -> None:
    async with opened(url) as provider, opened(url) as other:
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        session = Session(other, await other.lease("worker", b"", worker=True))
        await other.take(session.lease, range(PARTITIONS))
        await asyncio.sleep(0.1)
        heard.clear()
        for number in range(10):
            await session.submit(start_of(new_row(f"instance-{number}")))
            await asyncio.sleep(watching.LOOK_S_MIN)
        await asyncio.sleep(3 * watching.UNTOLD_S)
        assert sum(len(wakeup.messages) for wakeup in heard) == 10
        assert not any(wakeup.anything for wakeup in heard)


@pytest.mark.usefixtures("seldom_looks")
async def test_who_missed_something_is_told_to_look_at_everything(path: Path) -> None:
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    await _with_file(path)
    pipe = Pipe(loop, str(path), 1, heard.append)
    neighbours = _others_of(path, monkeypatched_origin="elsewhere")
    while not neighbours._behind:  # the loop reads nothing meanwhile
        neighbours.tell(News(ended={"run"}))
    await wait_for(lambda: bool(heard))
    heard.clear()
    neighbours.tell(News(ended={"run"}))
    await wait_for(lambda: bool(heard))
    assert [line.split(":")[1] for line in heard] == ["l"]
    neighbours.tell(News(ended={"other"}))
    await wait_for(lambda: len(heard) == 2)
    assert heard[1].split(":")[3] == "other"
    neighbours.close()
    pipe.close()


@pytest.mark.usefixtures("seldom_looks")
async def test_who_missed_the_last_thing_is_told_so_although_nothing_follows(url: str, path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with opened(url) as provider:
        waking = inside(provider).waking
        waking._neighbours._own = "1-elsewhere-"
        heard: list[str] = []
        pipe = Pipe(loop, str(path), 1, heard.append)
        loop.remove_reader(pipe._descriptor)  # as while its process does something else
        while not waking._neighbours._behind:
            waking._neighbours.tell(News(ended={"run"}))
        session = Session(provider, await provider.lease("worker", b"", worker=False))
        await session.submit(start_of(new_row("instance")))
        await asyncio.sleep(0.03)
        loop.add_reader(pipe._descriptor, pipe._read)
        await wait_for(lambda: bool(heard) and heard[-1].split(":")[1] == "l")
        assert not waking._neighbours._behind
        pipe.close()


async def _with_file(path: Path) -> None:
    async with opened(f"sqlite:///{path}"):
        pass


def _others_of(path: Path, *, monkeypatched_origin: str) -> Neighbours:
    """What a process of another origin writes to."""
    neighbours = Neighbours(str(path), 1)
    neighbours._own = f"1-{monkeypatched_origin}-"
    return neighbours


async def test_a_killed_process_leaves_no_pipe_for_long(url: str, path: Path) -> None:
    async with opened(url) as provider:
        session = Session(provider, await provider.lease("worker", b"", worker=False))
        provider.listen(lambda _: None)
        [own] = pipes_of(path)
        async with _killed(url) as wait_for_its_pipe:
            await wait_for_its_pipe(lambda: len(pipes_of(path)) == 2)
        assert len(pipes_of(path)) == 2
        await session.submit(start_of(new_row("instance")))
        await wait_for(lambda: pipes_of(path) == [own])


@contextlib.asynccontextmanager
async def _killed(url: str) -> AsyncIterator[Callable[[Callable[[], bool]], object]]:
    """Run a process that listens; kill it at the end of the block."""
    async with another(url) as other:
        await other.do("listen")
        yield wait_for
        await _kill(other)


async def _kill(other: Another) -> None:
    other.process.kill()
    await other.process.wait()


async def test_nothing_is_left_beside_the_file_when_all_have_closed_it(url: str, path: Path) -> None:
    async with opened(url) as provider, opened(url) as second:
        end = provider.listen(lambda _: None)
        second.listen(lambda _: None)
        assert len(pipes_of(path)) == 2
        end()
        assert len(pipes_of(path)) == 1
    assert not path.with_name("store.db.wake").exists()


async def test_where_no_pipe_can_be_made_others_are_found_by_looking(url: str, path: Path) -> None:
    path.with_name("store.db.wake").write_text("no folder")
    async with opened(url) as provider, another(url) as other:
        session = Session(provider, await provider.lease("worker", b"", worker=True))
        await provider.take(session.lease, range(PARTITIONS))
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        await asyncio.sleep(0.1)
        heard.clear()
        await other.do("start")
        await wait_for(lambda: any(wakeup.anything for wakeup in heard))


@pytest.mark.usefixtures("seldom_looks")
async def test_what_others_write_into_a_pipe_harms_nobody(url: str, path: Path) -> None:
    async with opened(url) as provider:
        heard: list[Wakeup] = []
        provider.listen(heard.append)
        [pipe] = pipes_of(path)
        write_to(pipe, b"\n:::\nx:i\nx:i:not a number\n\xff\xfe:s:0\n" + b"y" * 3000 + b"\n" + LAST)
        await wait_for(lambda: any(wakeup.leases for wakeup in heard))


async def test_nothing_is_written_into_what_is_no_pipe(url: str, path: Path, tmp_path: Path) -> None:
    """Whoever may make the folder may be somebody else: in one that all may write to."""
    folder = path.with_name("store.db.wake")
    async with opened(url) as provider:
        session = Session(provider, await provider.lease("worker", b"", worker=False))
        folder.mkdir(exist_ok=True)
        valued = tmp_path / "valued.txt"
        valued.write_text("as it was")
        os.mkfifo(tmp_path / "elsewhere")
        elsewhere = os.open(tmp_path / "elsewhere", os.O_RDWR | os.O_NONBLOCK)
        (folder / "1-link-0").symlink_to(valued)
        (folder / "1-link-1").symlink_to(tmp_path / "elsewhere")
        (folder / "1-file-0").write_text("")
        (folder / "1-folder-0").mkdir()
        for number in range(3):
            await session.submit(start_of(new_row(f"instance-{number}")))
        await asyncio.sleep(0.01)
        files = len(os.listdir("/dev/fd"))
        await session.submit(start_of(new_row("last")))
        await asyncio.sleep(0.01)
        assert len(os.listdir("/dev/fd")) == files
        assert valued.read_text() == "as it was"
        assert not (folder / "1-file-0").read_bytes()
        with pytest.raises(BlockingIOError):
            os.read(elsewhere, 1)
        os.close(elsewhere)


async def test_only_its_owner_may_read_a_pipe(path: Path) -> None:
    """Whoever else read from it would take away what it was to hear; who may write to the file may write to it."""
    await _with_file(path)
    for mode, expected in ((0o644, 0o600), (0o664, 0o620), (0o666, 0o622), (0o600, 0o600)):
        path.chmod(mode)
        pipe = Pipe(asyncio.get_running_loop(), str(path), 1, lambda _: None)
        assert [found.stat().st_mode & 0o777 for found in pipes_of(path)] == [expected]
        pipe.close()


async def test_a_loop_that_reads_no_pipes_leaves_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await _with_file(path)
    loop = asyncio.get_running_loop()

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", refuse)
    files = len(os.listdir("/dev/fd"))
    async with opened(f"sqlite:///{path}") as provider:
        provider.listen(lambda _: None)
        assert not pipes_of(path)
    assert len(os.listdir("/dev/fd")) == files


@pytest.mark.parametrize("count", [0, 1, 3, 200, 1000])
@pytest.mark.parametrize("limit", [LINE_BYTES_MAX, 300])
def test_all_that_is_named_is_told_in_lines_that_fit(count: int, limit: int) -> None:
    ended = {f"{number:032x}" for number in range(count)}
    changed = {f"{number:032x}" for number in range(count, 2 * count)}
    lines = News(activities=True, partitions=5, ended=ended, changed=changed).lines(limit)
    assert max(len(line.encode()) for line in lines) <= limit
    told = [line.split(":") for line in lines]
    assert {run for line in told for run in "".join(line[3:4]).split(",") if run} == ended
    assert {run for line in told for run in "".join(line[4:]).split(",") if run} == changed
    assert [(line[1].count("a"), line[2]) for line in told] == [(1, "5")] + [(0, "0")] * (len(told) - 1)
