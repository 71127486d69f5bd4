"""What a client and its handles share: one hub of one store, and how to send to it and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

from durable.app import App
from durable.client.answers import Answers
from durable.client.running import RunningActivities
from durable.client.submitting import Submitter
from durable.client.times import StoreClock
from durable.client.waiting import Waiters
from durable.engine.loop import DurableLoop, asking_place
from durable.errors import InstanceFinishedError, InstanceNotFoundError, LimitExceededError, StoreError
from durable.events import (
    EventRaised,
    HistoryEvent,
    InstanceKey,
    OrchestrationCancelRequested,
    OrchestrationResumed,
    OrchestrationSuspended,
    OrchestrationTerminated,
)
from durable.exchanges import QueryReceived, UpdateReceived
from durable.ids import check_instance_id
from durable.messages import encode_arrivals, traced
from durable.middleware import Around, ClientCall
from durable.payloads import Sealer
from durable.ports import Ports
from durable.provider import Delivery, Hub, InstanceRow, Message, Priority, Provider, Verdict, partition_of

F = TypeVar("F")

# What a client's call is called, by the event that it sends; others go by the event's name.
_OPERATIONS = {
    EventRaised: "raise_event",
    OrchestrationCancelRequested: "cancel",
    OrchestrationTerminated: "terminate",
    OrchestrationSuspended: "suspend",
    OrchestrationResumed: "resume",
    QueryReceived: "query",
    UpdateReceived: "update",
}


TRIES_MAX: Final = 64
"""Ids that are made to find one of an own partition, of which there may be few."""


class Direct(Protocol):
    """A worker in this process, of the same store, that may begin runs for which no start was stored."""

    def begin(self, message: Message, events: Sequence[HistoryEvent] | None = None) -> asyncio.Future[bool] | None:
        """Begin a run, or return None; the future tells whether it has begun, durably. If not, nothing of it was stored.

        `events`: what the message holds, where the caller knows.
        """
        ...

    def near(self) -> Collection[int]:
        """Return the partitions in which a run would have its first turn here, and soon; none while this worker is busy."""
        ...

    def is_running(self, key: InstanceKey, run_id: str) -> bool:
        """Tell whether this worker has a run in memory that has not ended, as far as anybody can know."""
        ...

    def on_its_way(self, key: InstanceKey) -> asyncio.Future[bool] | None:
        """Return the future of the start of this id that is on its way there, if one is."""
        ...


class Connection:
    """An open hub as a client uses it. Made in a running event loop; ends with `close`, which leaves the provider open."""

    def __init__(
        self,
        provider: Provider,
        hub: Hub,
        app: App | None,
        ports: Ports,
        sealer: Sealer,
        around: Around,
        direct: Direct | None = None,
    ) -> None:
        self.direct = direct
        self._provider = provider
        self.app = app
        self.ports = ports
        self.sealer = sealer
        self.around = around
        self.partitions = hub.partitions
        self.clock = StoreClock(ports, hub.now)
        self.submitter = Submitter(provider, ports)
        self._waiters = Waiters(provider, self._is_here)
        self._answers = Answers(provider, ports)
        self.running = RunningActivities(provider)
        self._features: dict[Any, Any] = {}

    @property
    def provider(self) -> Provider:
        """The store. Raises NonDurableAwaitError in an orchestrator, as `waiters` and `answers` do."""
        _refuse_in_turns()
        return self._provider

    @property
    def waiters(self) -> Waiters:
        """Those who wait for instances to change."""
        _refuse_in_turns()
        return self._waiters

    @property
    def answers(self) -> Answers:
        """Those who wait for the answers to queries and updates."""
        _refuse_in_turns()
        return self._answers

    def feature(self, make: Callable[[Connection], F]) -> F:
        """Return what a feature keeps for this connection, made by its class, or by a function of it, when first asked for."""
        found: F | None = self._features.get(make)
        if found is None:
            found = self._features[make] = make(self)
        return found

    def _is_here(self, key: InstanceKey, run_id: str) -> bool:
        return self.direct is not None and self.direct.is_running(key, run_id)

    async def close(self) -> None:
        """End everything that runs for the client; whoever still waits gets a DurableError."""
        await self._waiters.close()
        await self._answers.close()
        await self.submitter.close()

    def key_of(self, instance_id: str | None, *, may_begin_here: bool) -> InstanceKey:
        """Return the key of a new instance. Raises InvalidInputError for a bad id.

        None: a new id, preferably in a partition of the worker in this process, where it may begin the instance.
        """
        if instance_id is not None:
            return InstanceKey(check_instance_id(instance_id))
        key = InstanceKey(self.ports.new_id())
        near = self.direct.near() if may_begin_here and self.direct is not None else ()
        if near and len(near) < self.partitions:
            for _ in range(TRIES_MAX):
                if partition_of(key, self.partitions) in near:
                    break
                key = InstanceKey(self.ports.new_id())
        return key

    async def load(self, key: InstanceKey, run_id: str | None) -> InstanceRow:
        """Return the row of a run, None: of the current one. Raises InstanceNotFoundError."""
        (row,) = await self.provider.load([(key, run_id)])
        if row is None:
            raise InstanceNotFoundError(f"there is no instance '{key.id}', or it was purged")
        return row

    async def submit(self, operation: str, message: Message, events: Sequence[HistoryEvent] | None = None) -> Delivery:
        """Send a message, with the client's middleware around it; it is durable on return, or its verdict says why not.

        `events`: what it holds, where the caller has that at hand. Raises NonDurableAwaitError in an orchestrator.
        """
        _refuse_in_turns()
        name = None if message.start is None else message.start.name
        call = ClientCall(operation, message.target.id, name)
        with self.around.client(call):
            if call.trace is not None:
                message, events = traced(message, call.trace), None
            delivery = await self._delivered(message, events)
            call.verdict = delivery.verdict.name
            return delivery

    async def _delivered(self, message: Message, events: Sequence[HistoryEvent] | None) -> Delivery:
        """Store a message; but a start with which a run begins in this very process need not be stored before it has."""
        if self.direct is not None:
            earlier = self.direct.on_its_way(message.target)
            if earlier is not None:  # what is sent later comes later
                await asyncio.wait([earlier])
            begun = self.direct.begin(message, events)
            if begun is not None and await begun:
                self._waiters.has_neighbour()
                return Delivery(Verdict.STORED)
        return await self.submitter.submit(message)

    async def send(
        self,
        key: InstanceKey,
        events: Sequence[HistoryEvent],
        *,
        run_id: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Send events to an unfinished instance; they are durable on return.

        Raises InstanceNotFoundError, InstanceFinishedError, and LimitExceededError or StoreError for what the store refuses.
        """
        message = Message(
            target=key,
            partition=partition_of(key, self.partitions),
            data=encode_arrivals(events),
            priority=priority,
            run_id=run_id,
        )
        delivery = await self.submit(_OPERATIONS.get(type(events[0]), type(events[0]).__name__), message)
        if delivery.verdict is not Verdict.STORED:
            self.refuse(delivery, key, run_id)

    def refuse(self, delivery: Delivery, key: InstanceKey, run_id: str | None = None) -> NoReturn:
        """Raise what the verdict on a message that was not stored means to its sender."""
        if delivery.verdict is Verdict.ABSENT:
            raise InstanceNotFoundError(f"there is no instance '{key.id}', or it was purged")
        if delivery.verdict is Verdict.FINISHED:
            raise InstanceFinishedError(_ended(delivery.row, key, run_id))
        if delivery.verdict is Verdict.TOO_LARGE:
            limit = self.provider.message_bytes_max
            raise LimitExceededError(
                f"what was sent to '{key.id}' is too large for this store, whose limit for one value is {limit} bytes"
            )
        raise StoreError(f"the store cannot hold what was sent to '{key.id}': {delivery.verdict.name}")


def _refuse_in_turns() -> None:
    """Let no orchestrator use a client: what comes of it is in no history, and waits in another event loop."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, DurableLoop):
        raise loop.refusal("a call of a client", asking_place(2))


def _ended(row: InstanceRow | None, key: InstanceKey, run_id: str | None) -> str:
    if row is not None and run_id is not None and row.run_id != run_id:
        return f"run {run_id} of instance '{key.id}' has ended; run {row.run_id} has taken its place"
    status = f" ({row.status.name})" if row is not None else ""
    return f"instance '{key.id}' has ended{status}"
