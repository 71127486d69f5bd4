"""Reading instances back: rows, histories, and what a former owner held."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence

from durable import events as ev
from durable.client.ended import in_callback
from durable.engine.execution import Execution
from durable.errors import HistoryDamagedError, StoreError
from durable.messages import heartbeat_key
from durable.outgoing import Outgoing, outgoing_messages
from durable.payloads import is_sealed
from durable.provider import InstanceFilter, InstanceRow, Provider, RecordRow, Status
from durable.records import decode_record, first_checksum, next_checksum
from durable.worker.beginning import Beginnings
from durable.worker.carrying import read_carried
from durable.worker.claims import DELIVERIES_MAX, DELIVERIES_SPAN_US, worker_lost
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, Offer, OwnerState, Pending
from durable.worker.outbox import Origin
from durable.worker.receiving import POLL_S
from durable.worker.steps import blind_arrival, ending
from durable.worker.succession import name_former_run
from durable.worker.turns import Turns

logger = logging.getLogger("durable.worker")

SLICE_S = 0.02
"""How long a replay goes on before it lets the loop do something else."""

SHORT_RECORDS_MAX = 1000
SHORT_LOADS_MAX = 64
LONG_LOADS_MAX = 4
"""Instances that are read at the same time: short histories, and beside them, so that none waits for these, long ones. More
would gain nothing, and each may hold a few MiB of records."""

UNFINISHED = (Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED)


@dataclasses.dataclass(slots=True)
class LostAttempts:
    """What a former owner held of one instance: to be started again, or lost for good."""

    requests: list[ev.ActivityScheduled]
    lost: list[ev.ActivityFailed]
    state: OwnerState


class Loader:
    """Brings instances into memory so that their next turns can run.

    `on_loaded(live, error, is_first)`: it is there, or that keeps it from going on; `is_first`: nothing of it was in memory.
    `on_unread(lives)`: the store did not answer; it is time to try these again.
    """

    def __init__(
        self,
        provider: Provider,
        turns: Turns,
        clock: StoreClock,
        loop: asyncio.AbstractEventLoop,
        *,
        is_parked: Callable[[LiveInstance], bool],
        on_loaded: Callable[[LiveInstance, BaseException | None, bool], None],
        on_unread: Callable[[Sequence[LiveInstance]], None],
        slots: int,
    ) -> None:
        self._provider = provider
        self._slots = slots
        self._is_parked = is_parked
        self._turns = turns
        self._loop = loop
        self._on_loaded = on_loaded
        self._on_unread = on_unread
        self._short = asyncio.Semaphore(SHORT_LOADS_MAX)
        self._long = asyncio.Semaphore(LONG_LOADS_MAX)
        self._slice = asyncio.Lock()
        self._beginnings = Beginnings(provider, turns, clock, self._feed)

    def is_needed(self, live: LiveInstance) -> bool:
        """Tell whether something must be read before the instance's next turn."""
        row = live.row
        if row is None or live.is_row_stale:
            return True
        if row.status.is_finished:
            return False
        if live.control:
            if blind_arrival(live, row) is not None:
                return False
            if ending(live, row) is not None:
                return live.children is None and not live.outbox
        if not live.is_recovered and row.open_work:
            return True
        if not row.records and live.beginning() is not None:
            return live.begun is None
        return live.execution is None and row.records > 0

    async def load(self, lives: Sequence[LiveInstance]) -> None:
        """Load instances beside each other; hand each to `on_loaded` as soon as it is there."""
        first = {live.key for live in lives if live.row is None}
        unread = [live for live in lives if live.row is None or live.is_row_stale]
        found: list[BaseException | None]
        try:
            if unread:
                await self._read_rows(unread)
            found = await asyncio.gather(
                *(self._load_one(live, is_first=live.key in first) for live in lives), return_exceptions=True
            )
        except StoreError as error:
            found = [error] * len(lives)
        left = [live for live, why in zip(lives, found, strict=True) if why is not None and live.is_loading]
        if left:
            logger.warning("instances could not be read, they are tried again: %s", next(filter(None, found)))
            for live in left:
                live.is_loading = False
            self._loop.call_later(POLL_S, self._on_unread, left)
        for why in found:
            if why is not None and not isinstance(why, StoreError):
                raise why

    async def _load_one(self, live: LiveInstance, *, is_first: bool) -> None:
        found: BaseException | None = None
        is_long = live.row is not None and live.row.records > SHORT_RECORDS_MAX
        async with self._long if is_long else self._short:
            try:
                await self._bring_in(live)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever is wrong with this one is its own reason to stall)
                found = error
        live.is_loading = False
        self._on_loaded(live, found, is_first)

    async def _read_rows(self, lives: Sequence[LiveInstance]) -> None:
        for live in lives:
            live.is_row_stale = False  # a start that comes while they are being read makes them so again
        try:
            rows = await self._provider.load([(live.key, None) for live in lives])
        except BaseException:
            for live in lives:
                live.is_row_stale = True
            raise
        for live, row in zip(lives, rows, strict=True):
            self._turns.close(_take_row(live, row))

    async def _bring_in(self, live: LiveInstance) -> None:
        row = live.row
        if row is None or row.status.is_finished:
            live.is_recovered = True
            return
        if self._is_parked(live) or blind_arrival(live, row) is not None:
            return
        end = ending(live, row)
        if end is not None:
            live.children = await self._children(row) if _is_recursive(end) else []
            await self._look_for_undelivered(live, row)
            if live.state.cursor is not None and live.execution is not None and not live.outbox:
                await self._read_outbox(live, row)  # what is on record is sent all the same
            live.is_recovered = True
            return
        if live.state.unreadable:
            raise HistoryDamagedError("what the owner had noted in the instance's row cannot be read")
        first = live.beginning() if live.begun is None else None
        if first is not None:
            self._turns.close(live.drop_execution())
            live.execution, live.begun = await self._beginnings.build(row, first.event)
            live.go_first(first)
            live.is_recovered = True
        if live.execution is None and row.records > 0:
            live.execution = await self._replay(row)
            live.state = OwnerState.decode(row.state)
            live.state.queued.recount(live.execution.open_activities)
            live.state.in_line.recount(live.execution.open_activities)
            live.state.permits.recount(live.execution.open_activities)
        if not live.is_recovered and live.execution is not None:
            await self._read_heartbeats(live, row)
            if live.state.cursor is not None:
                await self._read_outbox(live, row)

    async def _look_for_undelivered(self, live: LiveInstance, row: InstanceRow) -> None:
        """Replay what is about to be ended by force, to list the events that nobody has consumed.

        It ends all the same if that is not possible, or if its code is known to be stuck: then what earlier generations have
        left is listed, which stands in no history.
        """
        live.left_over = ()
        try:
            if live.execution is None and row.records > 0 and row.status is not Status.STALLED:
                live.execution = await self._replay(row)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 (as in `load`)
            logger.info("instance '%s' ends without a look at its history: %s", row.key.id, error)
        try:
            if live.execution is None:
                live.left_over = tuple(await read_carried(self._provider, row, live.state.carried))
        except HistoryDamagedError as error:
            logger.error("what generations of '%s' have left cannot be listed with its end: %s", row.key.id, error)

    async def _replay(self, row: InstanceRow) -> Execution:
        execution = self._turns.new_execution(row)
        try:
            await self._replay_into(execution, row)
            execution.mailbox.carry(await read_carried(self._provider, row, OwnerState.decode(row.state).carried))
        except BaseException:
            self._turns.close(execution)
            raise
        return execution

    async def _replay_into(self, execution: Execution, row: InstanceRow) -> None:
        chain = first_checksum(row.key, row.run_id, row.generation)
        expected = 0
        while expected < row.records:
            records = await self._provider.read_history(row.run_id, row.generation, expected)
            if not records:
                raise HistoryDamagedError(f"history record {expected} of {row.records} is missing")
            for stored in records:
                if expected == row.records:
                    break
                if is_sealed(stored.data):
                    raise HistoryDamagedError(
                        f"history record {expected} is sealed or lies outside of the store: give this worker the codecs and "
                        "the payload store that the hub has"
                    )
                chain = next_checksum(chain, stored.data)
                if stored.index != expected or stored.checksum != chain:
                    raise HistoryDamagedError(f"history record {expected} does not match its checksum")
                expected += 1
            await self._feed(execution, records)
        if chain != row.chain:
            raise HistoryDamagedError("the history does not end with the checksum in the instance's row")

    async def _feed(self, execution: Execution, records: Sequence[RecordRow]) -> None:
        """Feed records in slices, each in a callback of the loop: orchestrator code never runs inside a task.

        Replays take turns with their slices, and with whatever else the loop has to do.
        """
        position = 0

        def some() -> None:
            nonlocal position
            until = self._loop.time() + SLICE_S
            while position < len(records) and self._loop.time() < until:
                data = records[position].data
                position += 1
                self._turns.feed(execution, decode_record(data), len(data))

        while position < len(records):
            async with self._slice:
                await in_callback(some)

    async def _children(self, row: InstanceRow) -> list[InstanceRow]:
        found: list[InstanceRow] = []
        page: bytes | None = None
        wanted = InstanceFilter(kind=None, parent=row.key, status=UNFINISHED)
        while True:
            answer = await self._provider.list_instances(wanted, limit=1000, page=page)
            found += [child for child in answer.rows if child.parent_run_id == row.run_id]
            page = answer.next_page
            if page is None:
                return found

    async def _read_heartbeats(self, live: LiveInstance, row: InstanceRow) -> None:
        if live.execution is None or not live.execution.open_activities:
            return
        live.heartbeats.clear()
        held = (task_id for task_id in live.execution.open_activities if task_id not in live.state.queued)
        for task_id in itertools.islice(held, self._slots):  # no more can have been running
            key = heartbeat_key(row.run_id, row.generation, task_id)
            memos = await self._provider.read_memos(key, 1)
            live.heartbeats.update({memo.key: memo.data for memo in memos})

    async def _read_outbox(self, live: LiveInstance, row: InstanceRow) -> None:
        """Build again what a large turn had still to send: its messages, then its attempts for the queue."""
        assert live.state.cursor is not None
        assert live.execution is not None
        execution, (generation, index, sent) = live.execution, live.state.cursor
        records = await self._provider.read_history(row.run_id, generation, index, 1)
        if not records or records[0].index != index:
            raise HistoryDamagedError(
                f"record {index} of generation {generation}, which is still to be sent, is missing"
            )
        record = decode_record(records[0].data)
        sender = dataclasses.replace(execution.sender(), generation=generation)
        items: list[Outgoing | Offer] = list(outgoing_messages(record, sender))
        last = record.events[-1] if record.events else None
        is_end = isinstance(last, ev.OUTCOMES) and not isinstance(last, ev.OrchestrationContinuedAsNew)
        live.ending = last if is_end else None
        if is_end:
            items += live.state.farewells.values()
        live.origin = Origin.of(execution.started)
        for event in record.events:
            if not isinstance(event, ev.ActivityScheduled) or event.task_id not in live.state.queued:
                continue
            if event.task_id in execution.open_activities:  # not given up in that very turn
                items.append(Offer(event, execution.seeds, live.origin.trace))
        live.outbox.extend(items[sent:])

    def lost_attempts(self, live: LiveInstance, now: int) -> LostAttempts:
        """Say which held attempts of an instance nobody runs, and count their delivery."""
        state = dataclasses.replace(live.state, deliveries=dict(live.state.deliveries))
        found = LostAttempts([], [], state)
        execution, row = live.execution, live.row
        if execution is None or row is None:
            return found
        running = {address.task_id for address in live.held}
        for task_id, request in execution.open_activities.items():
            if task_id in running or task_id in state.queued:
                continue
            count, since = state.deliveries.get(task_id, (1, now))
            if count >= DELIVERIES_MAX and now - since >= DELIVERIES_SPAN_US:
                found.lost.append(worker_lost(request, count))
                continue
            if len(state.deliveries) < self._slots:  # those asked for later were waiting for a slot: nothing began them
                state.deliveries[task_id] = [count + 1, since]
            heartbeat = live.heartbeats.pop(heartbeat_key(row.run_id, row.generation, task_id), None)
            if heartbeat is not None:
                request = dataclasses.replace(request, last_heartbeat=heartbeat)
            found.requests.append(request)
        return found


def _take_row(live: LiveInstance, row: InstanceRow | None) -> Execution | None:
    """Give an instance the row as it is stored now; return the engine of a former run, to be closed."""
    former, live.row = live.row, row
    if former is not None and row is not None and (former.run_id, former.generation) == (row.run_id, row.generation):
        return None
    live.is_recovered = False
    live.children = None
    live.state = OwnerState.decode(row.state) if row is not None else OwnerState()
    if row is not None:
        name_former_run(live, row, former.run_id if former is not None else "")
    return live.drop_execution()


def _is_recursive(end: Pending) -> bool:
    """Children end with a replaced parent, and with a terminated one unless only it was meant."""
    return not isinstance(end.event, ev.OrchestrationTerminated) or end.event.recursive
