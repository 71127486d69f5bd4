"""What a worker says while it stops, and what Ctrl-C leaves on the screen.

Method: in this process the log of `durable.worker`; for Ctrl-C a program of its own, interrupted when its output says that
it has come so far.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest

import durable
from durable import App, Worker
from tests.worker.calls import Records, calls, holds

PROGRAM = Path(__file__).with_name("interrupted_program.py")


def stop_lines(records: Records) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in records.found]
    return [line for line in found if "stop" in line[1] or "wait" in line[1]]


async def test_a_stop_without_activities_says_just_that() -> None:
    with Records("durable.worker", logging.INFO) as records:
        async with Worker(App(), "memory://", name="w"):
            pass
    assert stop_lines(records) == [("INFO", "worker 'w' is stopping"), ("INFO", "worker 'w' has stopped")]


async def test_a_stop_says_what_it_waits_for(store_url: str) -> None:
    app, begun, go = App(), asyncio.Event(), asyncio.Event()

    @app.activity
    async def lasts() -> None:
        begun.set()
        await go.wait()

    calls(app, lambda ctx: ctx.call_activity(lasts))
    with Records("durable.worker", logging.INFO) as records:
        async with Worker(app, store_url, name="w", shutdown_timeout=12) as worker:
            await worker.client.start("main", instance_id="order-7")
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, go.set)
    assert stop_lines(records) == [
        ("INFO", "worker 'w' is stopping, it waits up to 12 s for 1 activity: 'lasts' of 'order-7'"),
        ("INFO", "worker 'w' has stopped"),
    ]


async def test_a_stop_says_what_it_gave_up(store_url: str) -> None:
    app, end = App(), threading.Event()
    begun: list[str] = []

    @app.activity
    async def sleeps() -> None:
        begun.append("")
        await asyncio.Event().wait()

    @app.activity
    def works() -> None:
        begun.append("")
        end.wait(30)

    calls(app, lambda ctx: ctx.call_activity(sleeps), name="one")
    calls(app, lambda ctx: ctx.call_activity(works), name="two")
    try:
        with Records("durable.worker", logging.INFO) as records:
            async with Worker(app, store_url, name="w", shutdown_timeout=0.01, max_activities=2) as worker:
                await worker.client.start("one", instance_id="a")
                await worker.client.start("two", instance_id="b")
                await holds(lambda: len(begun) == 2)
                for name in "cdef":
                    await worker.client.start("one", instance_id=name)
                await holds(lambda: worker._parts and worker._parts.runner.waiting == 4)
    finally:
        end.set()
    told = "2 activities: 'sleeps' of 'a', 'works' of 'b'"
    assert stop_lines(records) == [
        (
            "INFO",
            f"worker 'w' is stopping, it waits up to 0.01 s for {told}; 4 more have not begun and are left for later",
        ),
        (
            "WARNING",
            f"worker 'w' does not wait any longer for {told}: what has no outcome is delivered again by the next worker",
        ),
        ("INFO", "worker 'w' has stopped"),
    ]


async def test_a_stop_that_is_cancelled_leaves_no_activity_running_and_records_none(store_url: str) -> None:
    app, begun, ended = App(), asyncio.Event(), asyncio.Event()
    deliveries: list[int] = []

    @app.activity
    async def lasts() -> str:
        deliveries.append(1)
        if len(deliveries) > 1:
            return "done by the second"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    calls(app, lambda ctx: ctx.call_activity(lasts))

    async def serve() -> None:
        async with Worker(app, store_url) as worker:
            await worker.client.start("main", instance_id="order-7")
            await begun.wait()

    async with Worker(
        App(), store_url, orchestrations=False, activities=False
    ):  # a memory store would end with its user
        with Records("durable.worker", logging.INFO) as records:
            serving = asyncio.create_task(serve())
            await holds(lambda: any("is stopping" in line for _, line in stop_lines(records)))
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            await asyncio.wait_for(ended.wait(), 5)
        async with Worker(app, store_url) as worker:
            assert await worker.client.get("order-7").result(timeout=15) == "done by the second"


class Interrupted:
    """The program, and what it printed so far."""

    def __init__(self, store: str, style: str, timeout_s: float) -> None:
        # Warnings, but not asyncio's debug mode (`-X dev`), which reads the source lines of each place where a future is made:
        # Ctrl-C in the middle of that leaves a file open that Python itself has opened.
        command = [sys.executable, "-W", "default", str(PROGRAM), store, style, str(timeout_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait(timeout=30)

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}: {self.lines}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def has_ended(self, within_s: float) -> bool:
        """Wait for its end, so long."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> list[str]:
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.lines


OWN_FRAMES = f"{Path(durable.__file__).parent}{os.sep}"
COMPLAINTS = ("Task was destroyed", "never retrieved", "never awaited", "ResourceWarning", "ERROR", "CRITICAL")


def lines_with(lines: list[str], *texts: str) -> list[str]:
    return [line for line in lines if any(text in line for text in texts)]


@pytest.mark.own_processes
@pytest.mark.parametrize("store", ["memory://", "sqlite:///interrupted.db"])
@pytest.mark.parametrize("style", ["sync", "async"])
def test_ctrl_c_drains_and_ends_without_noise(
    store: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Interrupted(store, style, timeout_s=20) as program:
        program.read_until("the activity runs")
        program.interrupt()
        program.read_until("is stopping, it waits up to 20 s for 1 activity")
        (tmp_path / "go").touch()
        lines = program.end()
    assert lines_with(lines, OWN_FRAMES, *COMPLAINTS) == []
    assert "the activity has ended" in lines
    assert lines[-1] == "KeyboardInterrupt"


@pytest.mark.own_processes
@pytest.mark.parametrize("store", ["memory://", "sqlite:///interrupted.db"])
@pytest.mark.parametrize("style", ["sync", "async"])
def test_a_second_ctrl_c_ends_at_once(store: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # On a busy machine one time in a hundred Python raises KeyboardInterrupt between two callbacks of its loop and loses the
    # second one: the task that it was to wake can then neither go on nor be cancelled, whatever it runs.
    for _ in range(3):
        with Interrupted(store, style, timeout_s=600) as program:
            program.read_until("the activity runs")
            program.interrupt()
            program.read_until("is stopping")
            program.interrupt()
            if program.has_ended(within_s=30):
                lines = program.end()
                break
    else:
        raise AssertionError("it does not end")
    assert lines_with(lines, *COMPLAINTS) == []
    assert "the activity has ended" not in lines
    assert lines[-1] == "KeyboardInterrupt"
