"""Runs the tests of a group against the memory provider as it is just now: directly, each with a fresh store.

pytest in a process of its own would take a second for each variant. What the suite needs of pytest is little: parameters,
the three fixtures, and exceptions for skipping and failing. Time is virtual, so that nobody waits for what never comes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import logging
import selectors
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from durable_memory.hub import MemoryHub
from durable_memory.provider import MemoryProvider

import durable.testing.conformance
from durable.errors import DurableError
from durable.ports import Ports
from durable.provider import Provider
from durable.testing.conformance import GROUPS, Connect, Promises, Store

LIMIT_BYTES = 100_000
VISITS_MAX = 20_000
"""More than any test needs: a test that goes round and round in a broken store fails instead."""

SUITE = str(Path(durable.testing.conformance.__file__).parent)


def is_finding(error: BaseException) -> bool:
    """Tell whether a test says by this that a promise is broken. Otherwise the variant is none: it falls over."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_finding, error.exceptions))
    if isinstance(error, AssertionError | DurableError | pytest.fail.Exception):
        return True
    where = traceback.extract_tb(error.__traceback__)[-1].filename  # what a test expects to be there, and is not
    return isinstance(error, LookupError | ValueError) and where.startswith(SUITE)


@dataclasses.dataclass(frozen=True)
class Case:
    """One test with its parameters."""

    name: str
    group: type[Promises]
    test: Callable[..., None]
    parameters: dict[str, Any]

    def run(self) -> None:
        """Run it; raises what the test raises."""
        hubs: dict[str, MemoryHub] = {}
        group = self.group()
        group.new_event_loop = VirtualLoop
        store = Store(_connect_to(hubs, "default"), has_clock=True)
        given: dict[str, Any] = {"other_hub": Store(_connect_to(hubs, "other"), has_clock=True), "caplog": Logged()}
        wanted = inspect.signature(self.test).parameters
        fixtures = {name: value for name, value in given.items() if name in wanted}
        with given["caplog"]:
            self.test(group, store, **fixtures, **self.parameters)


def cases_of(promise: str) -> Iterator[Case]:
    """All tests of a group, once for each set of parameters."""
    group = GROUPS[promise]
    for name, test in vars(group).items():
        if name.startswith("test_"):
            marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
            for sets in itertools.product(*(mark.args[1] for mark in marks)):
                parameters = {mark.args[0]: value for mark, value in zip(marks, sets, strict=True)}
                yield Case(name, group, test, parameters)


def first_finding(promise: str) -> str | None:
    """Return the name of the first test of the group that fails, or None."""
    for case in cases_of(promise):
        try:
            case.run()
        except pytest.skip.Exception:
            pass
        except BaseException as error:
            if is_finding(error):
                return case.name
            raise
    return None


class StagedProvider(MemoryProvider):
    """A memory provider on hubs that are handed in."""

    def __init__(self, hubs: dict[str, MemoryHub], hub_name: str, ports: Ports) -> None:
        super().__init__("", hub_name, ports, message_bytes_max=LIMIT_BYTES)
        self._hubs = hubs
        self._visits = 0

    def _find_hub(self) -> MemoryHub:
        _, hub_name = self._name
        return self._hubs.setdefault(hub_name, MemoryHub(hub_name, self._ports.now_us))

    @property
    def _hub(self) -> MemoryHub:
        self._visits += 1
        assert self._visits < VISITS_MAX, "the test goes round and round"
        return super()._hub


def _connect_to(hubs: dict[str, MemoryHub], hub_name: str) -> Connect:
    def connect(ports: Ports) -> Provider:
        return StagedProvider(hubs, hub_name, ports)

    return connect


class Logged(logging.Handler):
    """What pytest's `caplog` is to the suite; it also keeps the log quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> Logged:
        logger = logging.getLogger("durable")
        logger.addHandler(self)
        logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("durable")
        logger.removeHandler(self)
        logger.propagate = True


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing else to do."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_s

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._virtual_s += seconds

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads, whatever the loop's clock says meanwhile: it does not know how long they take."""
        await super().shutdown_default_executor()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # only another thread can wake the loop: wait for it
            return super().select(None)
        found = super().select(0)
        if not found:
            self._loop.jump(timeout)
        return found
