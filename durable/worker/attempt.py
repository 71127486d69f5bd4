"""One delivery of one attempt of an activity, while this worker has it in its hands: see `durable.worker.activities`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any

from durable import payloads
from durable.activity_context import ActivityContext
from durable.app import App
from durable.events import ActivityScheduled
from durable.provider import TaskAddress

if TYPE_CHECKING:
    from durable.client import Client, SyncClient
    from durable.worker.activities import ActivityRunner


class Attempt:
    """One delivery of one attempt. It is also what its `ActivityContext` talks to."""

    is_claimed = False
    is_repeated = False  # delivered before: it has had its start, so its queue_timeout is met
    is_in_line = False  # it waits here for a slot, by its priority, and is shown as waiting until it begins
    is_lasting = False  # it may take its time: its function is not known to be quick
    expected_s = 0.0  # how long it will take, if that is known, while it waits
    deadline: datetime | None = None
    heartbeat_details: bytes | None = None  # the latest beat's, encoded
    is_cancelled = False
    is_settled = False
    is_given_up = False  # the worker stops: it will be delivered again, with the heartbeats that it still gives
    is_started = False
    has_left = False  # its slot is free again
    task: asyncio.Task[None] | None = None
    unentered: Callable[[object], None] | None = None  # called if the task ends without having begun
    timers: dict[str, asyncio.TimerHandle] | None = None  # few have any
    beaten_at = 0.0
    entered_at: float | None = None  # since when its function runs
    stored_at: float | None = None
    started_us: int = 0
    context: ActivityContext | None = None
    trace: str | None = None  # of the run that asked for it

    def __init__(
        self,
        runner: ActivityRunner,
        address: TaskAddress,
        partition: int,
        request: ActivityScheduled,
        make_key: Callable[[], str],
        requested_at: int,
    ) -> None:
        self.runner = runner
        self.address = address
        self.partition = partition
        self.request = request
        self._make_key = make_key
        self.requested_at = requested_at

    @property
    def idempotency_key(self) -> str:
        """The same on every delivery and attempt of one call. Made when it is asked for: few activities do."""
        return self._make_key()

    @property
    def last_heartbeat(self) -> Any:
        """The details that the previous attempt (or delivery) last beat with, decoded."""
        stored = self.request.last_heartbeat
        return None if stored is None else payloads.decode(self.runner.sealer.unseal(stored))

    @property
    def client(self) -> Client | SyncClient:
        """A client of the same hub: in the worker's loop the asynchronous one, in a thread its blocking face."""
        return self.runner.client()

    @property
    def app(self) -> App:
        """The app that knows the function."""
        return self.runner.app

    @property
    def sealer(self) -> payloads.Sealer:
        """What payloads go through."""
        return self.runner.sealer

    def spawn(self, send: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Send something in the worker's loop. Called from there or from the attempt's thread."""
        self.runner.call_in_loop(self.runner.spawn, send)

    def heartbeat(self, details: Any = None) -> None:
        """Note a sign of life. Called from the loop or from the attempt's thread."""
        encoded = None
        if details is not None:
            what = f"heartbeat of activity '{self.request.name}'"
            encoded = self.runner.sealer.seal(payloads.encode(details, what=what))
        self.runner.call_in_loop(self.runner.beaten, self, encoded)
