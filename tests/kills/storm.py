"""A storm: workers on one store are killed and frozen at random moments under load; then it heals, and all is checked.

What is checked: each output; each answer to a client; the invariants of the store, read through the contract, during the storm
and after it; and the notes of the activities: no output that no activity gave, and no activity begun once its outcome was
known, by whatever worker went on after it had been frozen for longer than its lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from durable import Client
from durable import events as ev
from durable.invariants import Moment, StoredRun, read_runs, violations
from durable.ports import system_ports
from durable.records import decode_record
from durable.seeds import Seeds
from durable.stores import connect
from tests.kills.load import Load
from tests.kills.payloads import opened_by
from tests.kills.program import ATTEMPTS_MAX
from tests.kills.stores import FileStore, ServerStore, StormStore
from tests.kills.workers import Workers, workers_on

IN_FLIGHT = 24

SETTLE_S = 30.0
"""How long the last messages may take once all instances have ended."""

SHARE_LOOKS = 200

LATE_US = 2_000_000
"""A delivery that was claimed just before the outcome of another one may begin so much after it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much of what. `lease_s` is that of all workers; a freeze lasts a little longer. `in_flight`: instances at a time.

    Of a server: `restarts` after a crash, how often all its connections are ended (`broken`), and how many answers are cut
    off at least (`cuts`).
    """

    kills: int
    stops: int
    seed: int
    lease_s: float = 10.0
    restarts: int = 0
    broken: int = 0
    cuts: int = 0
    in_flight: int = IN_FLIGHT


@dataclasses.dataclass(slots=True)
class Outcome:
    """What a storm has shown. `zombies`: how often a frozen worker found its lease lost when it went on."""

    violations: list[str]
    kills: int
    stops: int
    zombies: int
    instances: int
    deliveries_repeated: int
    unanswered: int
    restarts: int = 0
    broken: int = 0
    cuts: int = 0

    @property
    def lost(self) -> int:
        """Violations by which something is missing."""
        return sum(text.startswith(("I1:", "I3:", "I7:")) for text in self.violations)

    @property
    def doubled(self) -> int:
        """Violations by which something happened twice."""
        return sum(text.startswith(("I2:", "I4:", "I9:")) for text in self.violations)


class Storm:
    """Kills and freezes workers by a plan; every choice is drawn from its seed."""

    def __init__(self, plan: Plan, workers: Workers, store: StormStore, folder: Path) -> None:
        self._plan = plan
        self._workers = workers
        self._store = store
        self._folder = folder
        self._kill_chance = random.Random(f"{plan.seed} kills")
        self._stop_chance = random.Random(f"{plan.seed} stops")
        self._shake_chance = random.Random(f"{plan.seed} server")
        self.kills = 0
        self.stops = 0
        self.restarts = 0
        self.broken = 0
        self.is_half_over = asyncio.Event()

    async def rage(self) -> list[str]:
        """Go through the plan; return the names of the workers that are left, all running."""
        first, second = await self._workers.bear(), await self._workers.bear()
        left, frozen, _ = await asyncio.gather(self._kill([first, second]), self._stop(), self._shake())
        return [*left, *frozen]

    async def _shake(self) -> None:
        """Restart the server and break its connections, at random moments."""
        store, chance, plan = self._store, self._shake_chance, self._plan
        if not isinstance(store, ServerStore):
            return
        while self.restarts < plan.restarts or self.broken < plan.broken or store.cuts < plan.cuts:
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            if self.restarts < plan.restarts and chance.random() < 0.5:
                await store.restart(chance)
                self.restarts += 1
            elif self.broken < plan.broken and await store.kill_backends():
                self.broken += 1
            done = self.restarts + self.broken + store.cuts
            if not plan.kills and 2 * done >= plan.restarts + plan.broken + plan.cuts:
                self.is_half_over.set()

    async def _kill(self, alive: list[str]) -> list[str]:
        chance, workers = self._kill_chance, self._workers
        while self.kills < self._plan.kills:
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            victims = list(alive) if chance.random() < 0.2 else [chance.choice(alive)]
            for name in victims:
                workers.kill(name)
                alive.remove(name)
                self.kills += 1
            for _ in victims:
                while chance.random() < 0.25:  # again, while it recovers
                    name = await workers.bear()
                    await asyncio.sleep(chance.uniform(0, 0.1))
                    workers.kill(name)
                    self.kills += 1
                alive.append(await workers.bear())
            if self.kills >= self._plan.kills / 2:
                self.is_half_over.set()
        return alive

    async def _stop(self) -> list[str]:
        chance, workers, lease_s = self._stop_chance, self._workers, self._plan.lease_s
        if not self._plan.stops:
            return []
        name = await workers.bear()
        while self.zombies < self._plan.stops and self.stops < 3 * self._plan.stops:
            await self._until_it_owns(name)
            await asyncio.sleep(chance.uniform(0, 0.3))
            workers.stop(name)
            # Inside a commit it keeps the file for itself, and nobody can take over: a few times that is what we want.
            if chance.random() < 0.1 or not await self._store.is_blocked():
                await asyncio.sleep(lease_s + self._store.lease_seen_after_s + chance.uniform(0, 0.8))
                self.stops += 1
            workers.go_on(name)
        return [name]

    async def _until_it_owns(self, name: str) -> None:
        """Wait until a worker has partitions that can be taken from it; the others part only with those at rest."""
        for _ in range(SHARE_LOOKS):
            if await self._store.is_owner(name):
                return
            await asyncio.sleep(0.05)

    @property
    def zombies(self) -> int:
        """How often a worker said that its lease was lost; one that is killed says nothing."""
        log = self._folder / "log"
        return log.read_text().count("lost its lease") if log.exists() else 0


async def run_storm(plan: Plan, folder: Path, store: StormStore | None = None) -> Outcome:
    """Let a storm go over an empty folder and store (a file, where none is given), heal, and check."""
    store = store or FileStore(folder)
    provider = connect(opened_by(store.url, folder), system_ports())
    await provider.open()
    try:
        async with (
            Client(opened_by(store.url, folder)) as client,
            workers_on(store.workers_url, folder, plan.lease_s) as workers,
        ):
            storm = Storm(plan, workers, store, folder)
            load = Load(client, random.Random(f"{plan.seed} load"))
            loading = asyncio.create_task(load.run(plan.in_flight))
            raging = asyncio.create_task(storm.rage())
            await _reached(storm.is_half_over, raging, loading)
            before = await read_runs(provider)
            left = await raging
            found = await violations(provider, before=before, attempts_max=ATTEMPTS_MAX)
            load.end()
            await loading
            found += await _settle(store)
            for name in left:
                await workers.retire(name)
            found += [f"I10: {text}" for text in workers.surprises]
        found += load.wrong
        found += await violations(
            provider, before=before, answers=load.answers, attempts_max=ATTEMPTS_MAX, moment=Moment.SETTLED
        )
        notes = Notes.read(folder / "notes")
        found += notes.against(await read_runs(provider), load)
    finally:
        await provider.close()
    repeated = notes.begun_count - notes.outcomes
    return Outcome(
        found,
        storm.kills,
        storm.stops,
        storm.zombies,
        len(load.answers.started),
        repeated,
        load.unanswered,
        storm.restarts,
        storm.broken,
        store.cuts if isinstance(store, ServerStore) else 0,
    )


async def _reached(moment: asyncio.Event, *tasks: asyncio.Task[Any]) -> None:
    """Wait for a moment, but not longer than those live that bring it about: what ends one of them is raised here."""
    moment_task = asyncio.create_task(moment.wait())
    await asyncio.wait([moment_task, *tasks], return_when=asyncio.FIRST_COMPLETED)
    moment_task.cancel()
    for task in tasks:
        if task.done():
            task.result()
            assert moment.is_set(), "it ended before its time"


async def _settle(store: StormStore) -> list[str]:
    """Wait until every message has been received."""
    give_up_at = asyncio.get_running_loop().time() + SETTLE_S
    while count := await store.count_messages():
        if asyncio.get_running_loop().time() > give_up_at:
            return [f"I3: {count} messages were never received"]
        await asyncio.sleep(0.05)
    return []


@dataclasses.dataclass(slots=True)
class Notes:
    """What the activities noted: when deliveries began, by idempotency key, and which outputs they gave."""

    begun: dict[str, list[int]]
    tokens: set[str]
    outcomes: int = 0

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Read the file of notes."""
        begun: defaultdict[str, list[int]] = defaultdict(list)
        tokens: set[str] = set()
        for line in path.read_text().splitlines():
            what, key, _, found = line.split()
            if what == "begun":
                begun[key].append(int(found))
            else:
                tokens.add(found)
        return cls(begun, tokens)

    @property
    def begun_count(self) -> int:
        """How many deliveries began."""
        return sum(map(len, self.begun.values()))

    def against(self, runs: Sequence[StoredRun], load: Load) -> Iterator[str]:
        """Compare the notes with outputs and histories."""
        for token, count in load.tokens.items():
            if count > 1:
                yield f"I2: the output {token} of one delivery was used {count} times"
            if token not in self.tokens:
                yield f"I9: no activity gave the output {token}"
        for key, (name, ended_at, outcomes) in _outcomes(runs).items():
            self.outcomes += outcomes
            if key not in self.begun:
                yield f"I9: activity '{name}' has an outcome, but never began (key {key})"
            elif max(self.begun[key]) > ended_at + LATE_US:
                late_s = (max(self.begun[key]) - ended_at) / 1e6
                yield f"I4: activity '{name}' was begun {late_s:.1f} s after its outcome was known (key {key})"


def _outcomes(runs: Sequence[StoredRun]) -> dict[str, tuple[str, int, int]]:
    """Return of each call, by idempotency key, the name of its activity, the time of its last outcome, and their number."""
    found: dict[str, tuple[str, int, int]] = {}
    for run in runs:
        for generation, rows in run.generations.items():
            requests: dict[int, tuple[str, str]] = {}
            seeds = Seeds("", generation)
            for row in rows:
                record = decode_record(row.data)
                for event in record.events:
                    if isinstance(event, ev.OrchestrationStarted):
                        seeds = Seeds(event.seed, generation)
                    elif isinstance(event, ev.ActivityScheduled):
                        requests[event.task_id] = seeds.derive("activity", event.call_id).hex(), event.name
                    elif isinstance(event, ev.ActivityCompleted | ev.ActivityFailed):
                        key, name = requests[event.task_id]
                        found[key] = name, record.time, found.get(key, ("", 0, 0))[2] + 1
    return found
