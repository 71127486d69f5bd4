"""Replay everything: when a test is over, each history in the stores of its workers is replayed from every prefix.

Goal: whatever a test makes an instance go through, its history asks for the very same bytes again, from wherever a worker
takes it up. Method: note which stores the workers of the test opened with which apps, and which runs they ran; keep the
stores that live in memory; afterwards read each run's present and former generation and call `replay_prefixes`. A history is
in order if one of the apps replays it: a test may deploy several.
"""

from __future__ import annotations

import asyncio
import functools
import random
from typing import Any

import pytest

from durable import App, DurableError, History, Worker
from durable.errors import StoreError
from durable.history import Generation
from durable.provider import InstanceFilter, InstanceKey, InstanceRow, Provider, RecordRow
from durable.stores import connect
from durable.testing import replay_prefixes
from durable.worker.turns import Turns

ENDS = 20
"""Prefixes at either end of a long history that are always tried."""

BETWEEN = 10
"""Prefixes between these, chosen by the seed of the run's id."""

EVENTS_MAX = 2_000
"""Events that the replays of one test may go through, roughly; from then on, each history is replayed from one prefix."""


class UsedStores:
    """The stores that the workers of one test have opened, and what it takes to read them when all workers are gone."""

    def __init__(self) -> None:
        self._apps: dict[Any, list[App]] = {}
        self._providers: dict[Any, Provider] = {}
        self._runs: set[tuple[InstanceKey, str]] = set()
        self._events_left = EVENTS_MAX

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note every worker that is made, and every run that one takes up, until the test is over."""
        init, enter, new_execution = Worker.__init__, Worker.__aenter__, Turns.new_execution
        urls: dict[int, Any] = {}

        @functools.wraps(init)
        def noting_init(worker: Worker, app: App, url: str | Provider, **options: Any) -> None:
            init(worker, app, url, **options)
            urls[id(worker)] = url

        @functools.wraps(enter)
        async def noting_enter(worker: Worker) -> Worker:
            await self._note(worker, urls[id(worker)])
            return await enter(worker)

        @functools.wraps(new_execution)
        def noting_execution(turns: Turns, row: InstanceRow) -> Any:
            self._runs.add((row.key, row.run_id))
            return new_execution(turns, row)

        monkeypatch.setattr(Worker, "__init__", noting_init)
        monkeypatch.setattr(Worker, "__aenter__", noting_enter)
        monkeypatch.setattr(Turns, "new_execution", noting_execution)

    async def _note(self, worker: Worker, url: str | Provider) -> None:
        if not worker.ports.may_start_threads:
            return  # a simulated one: its store ends with the run, and what it holds is looked at there
        if not isinstance(url, str) or url.partition("?")[0] == "memory://":  # private to the worker's own provider
            url = worker._provider
            self._providers[url] = url
        elif url not in self._providers:
            self._providers[url] = connect(url, worker.ports)
            if url.startswith("memory:"):  # kept open: it is gone when the last one closes it
                await self._providers[url].open()
        self._apps.setdefault(url, []).append(worker.app)

    async def violations(self) -> list[str]:
        """Replay everything; say what does not replay, or cannot be read."""
        found: list[str] = []
        for url, provider in self._providers.items():
            try:
                await provider.open()
                found += await self._violations(provider, self._apps[url])
            except StoreError as error:
                found.append(f"{url} cannot be read: {error}")
            finally:
                await provider.close()
        return found

    async def _violations(self, provider: Provider, apps: list[App]) -> list[str]:
        found: list[str] = []
        for row in await _runs_in(provider, self._runs):
            for generation in range(max(row.generation - 1, 0), row.generation + 1):
                records: list[RecordRow] = []
                while part := await provider.read_history(row.run_id, generation, len(records)):
                    records += part
                if records:
                    found += self._violations_of(Generation(row.key, row.run_id, generation, row.name), records, apps)
        return found

    def _violations_of(self, whose: Generation, records: list[RecordRow], apps: list[App]) -> list[str]:
        problems: list[str] = []
        for app in apps:
            try:
                history = History(whose, records)
                prefixes = _prefixes(history, self._events_left)
                replay_prefixes(app, history, prefixes)
                self._events_left -= len(history) * len(prefixes)
                return []
            except DurableError as error:
                problems.append(f"'{whose.key.id}', generation {whose.generation}: {type(error).__name__}: {error}")
        return list(dict.fromkeys(problems))


async def _runs_in(provider: Provider, noted: set[tuple[InstanceKey, str]]) -> list[InstanceRow]:
    """Return the rows of all current runs, and of those noted ones that were replaced."""
    rows = [row for row in await provider.load(sorted(noted)) if row is not None] if noted else []
    known = {row.run_id for row in rows}
    page: bytes | None = None
    while True:
        answer = await provider.list_instances(InstanceFilter(kind=None), limit=1000, page=page)
        rows += [row for row in answer.rows if row.run_id not in known]
        page = answer.next_page
        if page is None:
            return rows


def _prefixes(history: History, events_max: int) -> list[int]:
    """Return all prefixes of a history; of a long one the first, the last and some between; as many as can be afforded."""
    every = range(len(history.records) + 1)
    dice = random.Random(history.run_id)
    chosen = list(every)
    if len(every) > 2 * ENDS + BETWEEN:
        chosen = [*every[:ENDS], *sorted(dice.sample(every[ENDS:-ENDS], BETWEEN)), *every[-ENDS:]]
    affordable = max(events_max // max(len(history), 1), 1)
    return chosen if len(chosen) <= affordable else sorted(dice.sample(chosen, affordable))


def check(used: UsedStores, marker: pytest.Mark | None) -> None:
    """Fail if a history does not replay; under a marker `diverges`, fail if everything does."""
    found = asyncio.run(used.violations())
    if marker is None and found:
        pytest.fail("not every history of this test replays:\n\n" + "\n\n".join(found), pytrace=False)
    if marker is not None and not found:
        pytest.fail("marked `diverges`, but every history replays: take the marker away", pytrace=False)
