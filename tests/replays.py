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
from durable.ports import system_ports
from durable.provider import InstanceFilter, InstanceKey, InstanceRow, Provider, RecordRow
from durable.stores import connect
from durable.testing import replay_prefixes
from durable.worker.turns import Turns

ENDS = 20
"""Prefixes at either end of a long history that are always tried."""

BETWEEN = 10
"""Prefixes between these, chosen by the seed of the run's id."""

EVENTS_MAX = 40_000
"""Events that the replays of one history may go through, roughly: a very long one is replayed from fewer prefixes."""


class UsedStores:
    """The stores that the workers of one test have opened, and what it takes to read them when all workers are gone."""

    def __init__(self) -> None:
        self._apps: dict[Any, list[App]] = {}
        self._providers: dict[Any, Provider] = {}
        self._runs: set[tuple[InstanceKey, str]] = set()

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
            self._providers[url] = connect(url, system_ports())
            if url.startswith("memory:"):  # kept open: it is gone when the last one closes it
                await self._providers[url].open()
        self._apps.setdefault(url, []).append(worker.app)

    async def violations(self) -> list[str]:
        """Replay everything; say what does not replay, or cannot be read."""
        found: list[str] = []
        for url, provider in self._providers.items():
            try:
                await provider.open()
                found += await _violations(provider, self._apps[url], self._runs)
            except StoreError as error:
                found.append(f"{url} cannot be read: {error}")
            finally:
                await provider.close()
        return found


async def _violations(provider: Provider, apps: list[App], runs: set[tuple[InstanceKey, str]]) -> list[str]:
    rows = [row for row in await provider.load(sorted(runs)) if row is not None] if runs else []
    known = {row.run_id for row in rows}
    page: bytes | None = None
    while True:
        answer = await provider.list_instances(InstanceFilter(kind=None), limit=1000, page=page)
        rows += [row for row in answer.rows if row.run_id not in known]
        page = answer.next_page
        if page is None:
            break
    found: list[str] = []
    for row in rows:
        for generation in range(max(row.generation - 1, 0), row.generation + 1):
            found += await _violations_of(provider, row, generation, apps)
    return found


async def _violations_of(provider: Provider, row: InstanceRow, generation: int, apps: list[App]) -> list[str]:
    records: list[RecordRow] = []
    while part := await provider.read_history(row.run_id, generation, len(records)):
        records += part
    if not records:
        return []
    problems: list[str] = []
    for app in apps:
        try:
            history = History(Generation(row.key, row.run_id, generation, row.name), records)
            replay_prefixes(app, history, _prefixes(history))
            return []
        except DurableError as error:
            problems.append(f"'{row.key.id}', generation {generation}: {type(error).__name__}: {error}")
    return list(dict.fromkeys(problems))


def _prefixes(history: History) -> list[int]:
    """Return all prefixes of a history; of a long one the first, the last and some between."""
    every = range(len(history.records) + 1)
    if len(every) <= 2 * ENDS + BETWEEN:
        chosen = list(every)
    else:
        between = random.Random(history.run_id).sample(every[ENDS:-ENDS], BETWEEN)
        chosen = [*every[:ENDS], *sorted(between), *every[-ENDS:]]
    affordable = max(EVENTS_MAX // max(len(history), 1), 3)
    if len(chosen) > affordable:
        chosen = sorted({0, every[-1], *random.Random(history.run_id).sample(chosen, affordable - 2)})
    return chosen


def check(used: UsedStores, marker: pytest.Mark | None) -> None:
    """Fail if a history does not replay; under a marker `diverges`, fail if everything does."""
    found = asyncio.run(used.violations())
    if marker is None and found:
        pytest.fail("not every history of this test replays:\n\n" + "\n\n".join(found), pytrace=False)
    if marker is not None and not found:
        pytest.fail("marked `diverges`, but every history replays: take the marker away", pytrace=False)
