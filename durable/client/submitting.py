"""Group submit: what a client sends in one tick of the loop goes to the store in one transaction.

While one batch is being written the next one fills, so that the cost of a commit is shared by all who wait for one.
Batches are numbered under a client's lease, one at a time: if the outcome of one is unknown, it is sent again with its
number, and the store answers what it answered before, or writes it now. So a start or an event is never stored twice.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Sequence
from typing import Final, TypeAlias

from durable.errors import DurableError, LeaseLostError, StoreUnavailableError
from durable.ports import Ports
from durable.provider import Delivery, Lease, Message, Provider

logger = logging.getLogger("durable.client")

BATCH_MESSAGES_MAX: Final = 1000
"""More messages gain nothing, and hold up whoever else wants to write."""

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Eight inputs of the largest size."""

OUTAGE_SECONDS_MAX: Final = 30.0
"""How long a batch is repeated while the store does not answer: longer than a restart of a database server takes."""

PAUSE_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0

CLOSE_SECONDS_MAX: Final = 5.0
"""How long closing waits for the batch that is being written."""


Entries: TypeAlias = list[tuple[Message, asyncio.Future[Delivery]]]


class Submitter:
    """Sends messages for one client. The lease is taken with the first."""

    def __init__(self, provider: Provider, ports: Ports) -> None:
        self._provider = provider
        self._ports = ports
        self._bytes_max = min(BATCH_BYTES_MAX, provider.batch_bytes_max or BATCH_BYTES_MAX)
        self._waiting: collections.deque[tuple[Message, asyncio.Future[Delivery]]] = collections.deque()
        self._sending: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._number = 0
        self._is_closed = False

    def submit(self, message: Message) -> asyncio.Future[Delivery]:
        """Send a message with the next batch; the future gives its delivery once it is durable.

        It raises StoreUnavailableError if the store did not answer for OUTAGE_SECONDS_MAX: then the outcome is unknown.
        """
        if self._is_closed:
            raise DurableError("this client is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Delivery] = loop.create_future()
        self._waiting.append((message, future))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        return future

    async def close(self) -> None:
        """Let the batch that is being written end, refuse the others, and give the lease back."""
        self._is_closed = True
        self._refuse_waiting()
        sending = self._sending
        if sending is not None:
            _, late = await asyncio.wait([sending], timeout=CLOSE_SECONDS_MAX)
            if late:
                sending.cancel()
                await asyncio.wait([sending])
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await self._provider.release(lease)
            except DurableError as error:
                logger.debug("a client's lease was not released: %s", error)  # it only numbered; the store forgets it

    def _refuse_waiting(self) -> None:
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(DurableError("the client was closed before this was sent"))

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                if batch:
                    await self._send(batch)
        finally:
            self._sending = None

    def _next_batch(self) -> Entries:
        """Take as many messages as go together, in their order; leave out those that nobody waits for any more."""
        batch: Entries = []
        size = 0
        while self._waiting and len(batch) < BATCH_MESSAGES_MAX:
            message, future = self._waiting[0]
            size += _size_of(message)
            if batch and size > self._bytes_max:
                break
            self._waiting.popleft()
            if not future.cancelled():
                batch.append((message, future))
        return batch

    async def _send(self, batch: Entries) -> None:
        try:
            deliveries = await self._submitted([message for message, _ in batch])
        except asyncio.CancelledError:
            _fail(
                batch, StoreUnavailableError("the client was closed before the store answered: the outcome is unknown")
            )
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is for those who wait)
            _fail(batch, error)
            return
        for (_, future), delivery in zip(batch, deliveries, strict=True):
            if not future.done():
                future.set_result(delivery)

    async def _submitted(self, messages: Sequence[Message]) -> Sequence[Delivery]:
        """Submit under the next number until the store answers."""
        began, pause, is_known = self._ports.monotonic(), PAUSE_SECONDS, True
        while True:
            try:
                if self._lease is None:
                    self._lease = await self._provider.lease("client", b"", worker=False)
                    self._number = 0
                deliveries = await self._provider.submit(self._lease, self._number + 1, messages)
                self._number += 1
                return deliveries
            except LeaseLostError as error:
                # Nothing of this batch was written under it, unless an earlier try was and its answer was lost.
                self._lease = None
                if not is_known:
                    raise StoreUnavailableError(f"it is unknown whether this was stored: {error}") from error
                is_known = False
            except StoreUnavailableError as error:
                is_known = is_known and self._lease is None
                if self._ports.monotonic() - began >= OUTAGE_SECONDS_MAX:
                    self._lease = None  # the next batch begins a new count: this number may still arrive
                    raise
                logger.debug("the store does not answer, trying again: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
            except BaseException:
                self._lease = None
                raise


def _fail(batch: Entries, error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _size_of(message: Message) -> int:
    """Return roughly how many bytes a message is in the store."""
    size = 200 + len(message.data)
    if message.start is not None and message.start.input is not None:
        size += len(message.start.input)
    if isinstance(message.otherwise, Message):
        size += len(message.otherwise.data)
    return size
