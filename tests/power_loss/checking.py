"""Cuts the power at many places of a recording, and looks at what each image of the disk holds.

What must hold of an image: the real provider opens it, SQLite finds it whole, it is exactly the state after the last
transaction whose COMMIT had returned, or the one after it if that was on its way; all that was answered is there; and the
invariants hold that can be read from a store at rest. Workers that are started on a sample of the images finish all
instances; the power is cut during that, too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from durable.invariants import Moment, violations
from durable.ports import system_ports
from durable.stores import connect
from tests.power_loss.disk import Disk, write_files
from tests.power_loss.recorder import Mark, Synced
from tests.power_loss.recording import DATABASE, Promise, Recording, record, state_of, url_of


@dataclasses.dataclass(frozen=True)
class Cut:
    """An image, and what was promised when the power was cut. `states` None: the store was not open yet."""

    place: int
    files: Mapping[str, bytes]
    states: frozenset[str] | None
    promises: Mapping[str, Promise]


@dataclasses.dataclass
class Tally:
    """What was done and found; `violations` with the folder in which the image was kept."""

    seed: int
    runs: int = 0
    syncs: int = 0
    commits: int = 0
    images: int = 0
    distinct: int = 0
    finished: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)

    def figures(self) -> dict[str, int]:
        """Return what a ledger shows besides the violations."""
        return {name: getattr(self, name) for name in ("images", "distinct", "runs", "commits", "syncs", "finished")}


def cuts(recording: Recording, count: int, chance: random.Random) -> Iterator[Cut]:
    """Yield so many images of a recording, at each sync at least one if they suffice."""
    disk = Disk(recording.before)
    wanted = _places(recording, count, chance)
    committed: str | None = None
    states: frozenset[str] | None = None
    promises: dict[str, Promise] = {}
    for place, entry in enumerate(recording.log):
        for _ in range(wanted.get(place, 0)):
            yield Cut(place, {**disk.cut(chance), **_leftovers(chance)}, states, dict(promises))
        disk.apply(entry)
        if not isinstance(entry, Mark):
            continue
        match entry.what:
            case "opened" if committed is None:
                committed = entry.value
                states = frozenset({entry.value})
            case "committing":
                states = frozenset({committed, entry.value} - {None})
            case "committed":
                committed = entry.value
                states = frozenset({entry.value})
            case "answered":
                promises |= {promise.run_id: promise for promise in entry.value}


def _places(recording: Recording, count: int, chance: random.Random) -> dict[int, int]:
    """Choose places of the log: just before each sync and just after it, then any."""
    log = recording.log
    syncs = [place for place, entry in enumerate(log) if isinstance(entry, Synced)]
    before, after = chance.sample(syncs, len(syncs)), [place + 1 for place in chance.sample(syncs, len(syncs))]
    chosen = [*before, *after][:count]
    chosen += chance.choices(range(len(log)), k=max(0, count - len(chosen)))
    places: dict[int, int] = {}
    for place in chosen:
        places[min(place, len(log) - 1)] = places.get(min(place, len(log) - 1), 0) + 1
    return places


def _leftovers(chance: random.Random) -> dict[str, bytes]:
    """Return what else may lie beside a database after a crash; none of it may matter."""
    return {
        name: chance.randbytes(size)
        for name, size in ((f"{DATABASE}-shm", 32768), (f"{DATABASE}.lock", 0))
        if chance.random() < 0.5
    }


async def problems_of(cut: Cut, folder: Path) -> list[str]:
    """Open an image, which lies in the folder, with the real provider, and return what is wrong with it."""
    provider: Any = connect(url_of(folder), system_ports())
    problems: list[str] = []
    try:
        await provider.open()
    except Exception as error:
        return [f"it does not open: {error!r}"]
    try:
        database = provider._opened.read
        verdict = database.execute("PRAGMA integrity_check").fetchall()
        if verdict != [("ok",)]:
            problems.append(f"integrity_check: {verdict[:3]}")
        if cut.states is not None and state_of(database) not in cut.states:
            problems.append("its state is neither that of the last commit nor that of the one on its way")
        problems += [problem async for problem in _broken_promises(cut, provider)]
        problems += await violations(provider, moment=Moment.STILL)
    except Exception as error:
        problems.append(f"it cannot be read: {error!r}")
    finally:
        await provider.close()
    return problems


async def _problems_at_the_end(folder: Path) -> list[str]:
    provider = connect(url_of(folder), system_ports())
    await provider.open()
    try:
        return await violations(provider, moment=Moment.SETTLED)
    finally:
        await provider.close()


async def _broken_promises(cut: Cut, provider: Any) -> Any:
    promises = list(cut.promises.values())
    rows = await provider.load([(promise.key, promise.run_id) for promise in promises])
    for promise, row in zip(promises, rows, strict=True):
        if row is None:
            yield f"{promise.key.id}: its run is not there, though it was answered"
        elif (row.generation, row.records) < (promise.generation, promise.records):
            yield f"{promise.key.id}: {(row.generation, row.records)} where {promise} was answered"
        elif (
            promise.records
            and (row.generation, row.records) == (promise.generation, promise.records)
            and (row.chain, row.status) != (promise.chain, promise.status)
        ):
            yield f"{promise.key.id}: another turn, or another status, than {promise}"


class Battery:
    """Makes images and checks them, in folders below `folder`; the images of violations are left there."""

    def __init__(self, folder: Path, seed: int, *, instances: int = 21, finished_each: int = 40) -> None:
        """Of `finished_each` images one is given to workers, which finish all `instances`."""
        self.tally = Tally(seed)
        self._folder = folder
        self._chance = random.Random(seed)
        self._instances = instances
        self._finished_each = finished_each
        self._seen: set[int] = set()

    def run(self, images: int, *, images_each_run: int = 1_000) -> Tally:
        """Record the workload, as often as that many images need, and check them."""
        while self.tally.images < images and not self.tally.violations:
            folder = self._folder / f"run-{self.tally.runs}"
            folder.mkdir()
            recording = record(folder, self._instances, self._chance)
            shutil.rmtree(folder)
            self.check(recording, min(images_each_run, images - self.tally.images))
        return self.tally

    def check(self, recording: Recording, images: int, *, is_second: bool = False) -> None:
        """Check so many images of one recording. `is_second`: it began on such an image itself."""
        self.tally.runs += 1
        self.tally.syncs += sum(isinstance(entry, Synced) for entry in recording.log)
        self.tally.commits += sum(isinstance(entry, Mark) and entry.what == "committed" for entry in recording.log)
        for number, cut in enumerate(cuts(recording, images, self._chance)):
            self.tally.images += 1
            mark = hash((cut.states, *sorted(cut.files.items())))
            if mark in self._seen:
                continue
            self._seen.add(mark)
            self.tally.distinct += 1
            self._check(cut)
            if not is_second and number % self._finished_each == self._finished_each // 2:
                self._finish(cut)

    def _check(self, cut: Cut) -> None:
        folder = self._folder / f"image-{self.tally.images}"
        write_files(folder, cut.files)
        problems = asyncio.run(problems_of(cut, folder))
        shutil.rmtree(folder)
        if problems:
            self._keep(cut, "; ".join(problems[:3]))

    def _finish(self, cut: Cut) -> None:
        """Let workers finish what an image holds; then cut the power in the middle of that."""
        folder = self._folder / f"finished-{self.tally.images}"
        write_files(folder, cut.files)
        try:
            second = record(folder, self._instances, self._chance)
            problems = asyncio.run(_problems_at_the_end(folder))
        except Exception as error:
            self._keep(cut, f"workers cannot finish it: {error!r}")
            return
        finally:
            shutil.rmtree(folder)
        if problems:
            self._keep(cut, f"after workers have finished it: {'; '.join(problems[:3])}")
            return
        self.tally.finished += 1
        self.check(second, self._finished_each // 4, is_second=True)

    def _keep(self, cut: Cut, problem: str) -> None:
        kept = self._folder / f"violation-{len(self.tally.violations)}"
        write_files(kept, cut.files)
        self.tally.violations.append(f"cut at entry {cut.place} of the log: {problem}; the image is in {kept}")
