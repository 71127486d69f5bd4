"""What the tests of the contract stand on: a store with a clock, sessions on it, and rows to write."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from durable.events import InstanceKey
from durable.ports import Ports, run_in_thread, system_ports
from durable.provider import (
    LEASE_US,
    PARTITIONS,
    ActivityRow,
    Batch,
    Committed,
    Delivery,
    Expects,
    InstanceRow,
    Lease,
    Memo,
    Message,
    Progress,
    Provider,
    Received,
    RecordRow,
    Status,
    Step,
    StoredMessage,
    TaskAddress,
    partition_of,
)

Connect = Callable[[Ports], Provider]
"""Makes a provider object on the store of the test; nothing is opened yet."""

SECOND_US = 1_000_000
LATER_US = 3600 * SECOND_US
WAIT_S_MAX = 10.0

BAD_TEXT = "lone \udc80 surrogate"
"""Text that is not Unicode, which no store has to hold."""


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * SECOND_US

    def now_us(self) -> int:
        """The time, for `Ports`."""
        return self.now

    def turn(self, microseconds: int) -> None:
        """Let time pass."""
        self.now += microseconds


@dataclasses.dataclass
class Session:
    """One provider object with one lease, and the numbers of that lease's calls."""

    provider: Provider
    lease: Lease
    commits: int = 0
    submits: int = 0

    async def submit(self, *messages: Message) -> Sequence[Delivery]:
        """Submit under the next number."""
        self.submits += 1
        return await self.provider.submit(self.lease, self.submits, messages)

    async def commit(self, *steps: Step, **batch: Any) -> Committed:
        """Commit under the next number, which is used up only if that succeeds."""
        committed = await self.provider.commit(self.lease, Batch(self.commits + 1, steps, **batch))
        self.commits += 1
        return committed

    async def start(self, key_id: str, **columns: Any) -> InstanceRow:
        """Start an instance and consume its start; return its row."""
        row = new_row(key_id, **columns)
        [delivery] = await self.submit(start_of(row))
        await self.commit(step_of(row, consumed=[delivery.sequence]))
        return await self.load(key_id, kind=row.key.kind)

    async def finish(self, row: InstanceRow, *records: bytes, **step: Any) -> InstanceRow:
        """Let an instance end."""
        await self.commit(end_of(row, *records, **step))
        return await self.load(row.key.id, kind=row.key.kind)

    async def find(self, key_id: str, run_id: str | None = None, *, kind: str = "o") -> InstanceRow | None:
        """Load a row, or None."""
        [row] = await self.provider.load([(InstanceKey(key_id, kind), run_id)])
        return row

    async def load(self, key_id: str, run_id: str | None = None, *, kind: str = "o") -> InstanceRow:
        """Load a row that must be there."""
        row = await self.find(key_id, run_id, kind=kind)
        assert row is not None
        return row

    async def receive(self, held: Collection[int] = (), limit: int = 1000) -> Sequence[StoredMessage]:
        """Receive messages."""
        return (await self.received(held, limit)).messages

    async def received(self, held: Collection[int] = (), limit: int = 1000, **asked: Any) -> Received:
        """Receive."""
        return await self.provider.receive(self.lease, held, limit, **asked)

    async def history(self, run_id: str, generation: int = 0) -> list[bytes]:
        """Read a whole generation's records."""
        found: list[bytes] = []
        while records := await self.provider.read_history(run_id, generation, len(found)):
            assert [record.index for record in records] == list(range(len(found), len(found) + len(records)))
            found += [record.data for record in records]
        return found

    async def memos(self, prefix: str = "") -> dict[str, bytes]:
        """Read memos."""
        return {memo.key: memo.data for memo in await self.provider.read_memos(prefix)}

    async def claim(
        self, *queues: str, limit: int = 100, served: Collection[tuple[str, str | None]] | None = None
    ) -> Sequence[ActivityRow]:
        """Claim attempts."""
        return await self.provider.claim(self.lease, queues or ("default",), served, limit)


class Store:
    """An empty store, its clock, and everybody who has opened it."""

    def __init__(self, connect: Connect, *, has_clock: bool) -> None:
        self._connect = connect
        self._has_clock = has_clock
        self._exits = contextlib.AsyncExitStack()
        self._clock = Clock()
        self.now = self._clock.now

    @property
    def ports(self) -> Ports:
        """The ports that provider objects get."""
        return dataclasses.replace(system_ports(), now_us=self._clock.now_us, run_blocking=run_in_thread)

    def connect(self) -> Provider:
        """Return a provider object that is not open yet."""
        return self._connect(self.ports)

    def turn_clock(self, microseconds: int) -> None:
        """Let time pass, for all who have opened the store."""
        if not self._has_clock:
            pytest.skip("this store's clock cannot be turned")
        self._clock.turn(microseconds)
        self.now = self._clock.now

    async def open(self) -> Provider:
        """Open the store once more; closed after the test."""
        provider = self.connect()
        await provider.open()
        self._exits.push_async_callback(provider.close)
        return provider

    async def client(self, provider: Provider | None = None) -> Session:
        """A session whose lease only numbers its calls."""
        provider = provider or await self.open()
        return Session(provider, await provider.lease("client", b"", worker=False))

    async def worker(
        self, partitions: Collection[int] = range(PARTITIONS), *, name: str = "worker", provider: Provider | None = None
    ) -> Session:
        """A session that owns these partitions, or those of them that are free."""
        provider = provider or await self.open()
        lease = await provider.lease(name, f"{name} is here".encode(), worker=True)
        if partitions:
            await provider.take(lease, partitions)
        return Session(provider, lease)

    async def kill(self, session: Session) -> None:
        """Let a worker die: it is closed without a release, and whatever time that takes to be known has passed."""
        await session.provider.close()
        if not session.provider.is_fenced_by_lock:
            self.turn_clock(LEASE_US + 1)

    async def close(self) -> None:
        """Close all that was opened."""
        await self._exits.aclose()


# ---- rows, messages and steps

_numbers = itertools.count(1)


def new_row(key_id: str, *, kind: str = "o", **columns: Any) -> InstanceRow:
    """Return the row of a new run, as a start brings it."""
    key = InstanceKey(key_id, kind)
    given: dict[str, Any] = {"run_id": f"run-{next(_numbers)}", "name": "work", "version": None} | columns
    times = dict.fromkeys(("created_at", "scheduled_at", "updated_at"), 1_700_000_000 * SECOND_US)
    return InstanceRow(key, partition_of(key, PARTITIONS), **(times | given))


def start_of(row: InstanceRow, expects: Expects = Expects.ABSENT, **fields: Any) -> Message:
    """Return the message that starts a run."""
    given: dict[str, Any] = {"data": b"start of " + row.run_id.encode(), "start": row, "expects": expects} | fields
    return Message(row.key, row.partition, **given)


def event_to(key_id: str, data: bytes = b"event", *, kind: str = "o", **fields: Any) -> Message:
    """Return a message to an instance that must be unfinished, unless `fields` say otherwise."""
    key = InstanceKey(key_id, kind)
    return Message(key, partition_of(key, PARTITIONS), data, **fields)


PROGRESS_FIELDS = frozenset(field.name for field in dataclasses.fields(Progress))


def step_of(row: InstanceRow, *records: bytes, **fields: Any) -> Step:
    """Return the step that appends records to a row; `fields` are of Progress (RUNNING if nothing else) or of Step."""
    progress: dict[str, Any] = {
        "generation": row.generation,
        "records": row.records + len(records),
        "chain": b"chain",
        "status": Status.RUNNING,
        "updated_at": row.updated_at + 1,
        "due_at": None,
        "open_work": 0,
    } | {name: value for name, value in fields.items() if name in PROGRESS_FIELDS}
    others = {name: value for name, value in fields.items() if name not in PROGRESS_FIELDS}
    appends = [
        (row.generation, RecordRow(row.records + place, record, b"sum of " + record[:20]))
        for place, record in enumerate(records)
    ]
    given: dict[str, Any] = {"before": (row.generation, row.records), "appends": appends} | others
    return Step(row.key, row.run_id, progress=Progress(**progress), **given)


def beginning_of(row: InstanceRow, *records: bytes, **fields: Any) -> Step:
    """Return the step with which a run begins, as `step_of` and `end_of` would write it if its start had been stored."""
    step = (end_of if fields.get("status", Status.RUNNING).is_finished else step_of)(row, *records, **fields)
    return dataclasses.replace(step, begins=row.after(step.progress, step.changes))


def end_of(row: InstanceRow, *records: bytes, **fields: Any) -> Step:
    """Return the step that completes a run."""
    changes = {"output": b"output", "completed_at": row.updated_at + 1} | fields.pop("changes", {})
    return step_of(row, *records, **({"status": Status.COMPLETED, "changes": changes} | fields))


def attempt_of(row: InstanceRow, task_id: int = 0, **fields: Any) -> ActivityRow:
    """Return an attempt for the activity queue."""
    task = TaskAddress(row.key, row.run_id, row.generation, task_id)
    given: dict[str, Any] = {"queue": "default", "name": "act", "version": None, "data": b"attempt"} | fields
    return ActivityRow(task, row.partition, **given)


def memo(key: str, data: bytes = b"memo", *, expires_at: int) -> Memo:
    """Return a memo."""
    return Memo(key, data, expires_at)


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail if it never does."""
    deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"{inspect.getsource(condition).strip()}: this never came to hold")
        await asyncio.sleep(0.002)


# ---- tests


class Promises:
    """Base of the groups of tests. A test is a coroutine; it gets the fixture `store`."""

    has_clock_of_ports = True
    """False for a store that keeps its own time: tests that turn the clock are then skipped."""

    new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    """What makes the event loop of a test; None: asyncio does."""

    def __init_subclass__(cls) -> None:
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(cls, name, _run_to_its_end(test))

    @pytest.fixture
    def connect(self) -> Connect:
        """To be overridden: how to connect to a store that is empty at the beginning of the test."""
        raise NotImplementedError("a provider's tests say how to connect")

    @pytest.fixture
    def store(self, connect: Connect) -> Store:
        """The store under test."""
        return Store(connect, has_clock=self.has_clock_of_ports)

    @pytest.fixture
    def connect_to_other_hub(self) -> Connect | None:
        """To be overridden where a store holds several hubs: how to connect to a second one of the same store."""
        return None

    @pytest.fixture
    def other_hub(self, connect_to_other_hub: Connect | None) -> Store:
        """Another hub of the store under test."""
        if connect_to_other_hub is None:
            pytest.skip("these tests do not say how to connect to another hub")
        return Store(connect_to_other_hub, has_clock=self.has_clock_of_ports)


def _run_to_its_end(test: Callable[..., Any]) -> Callable[..., None]:
    """Make a plain function of a test that is a coroutine, so that no plugin is needed."""

    @functools.wraps(test)
    def run(self: Promises, store: Store, **fixtures: Any) -> None:
        async def scenario() -> None:
            try:
                await test(self, store, **fixtures)
            finally:
                for opened in (store, *fixtures.values()):
                    if isinstance(opened, Store):
                        await opened.close()

        with asyncio.Runner(loop_factory=self.new_event_loop) as runner:
            runner.run(scenario())

    return run
