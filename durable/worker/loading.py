"""Reading instances back: rows, histories, and what a former owner held."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from durable.engine import events as ev
from durable.engine.execution import Execution
from durable.engine.records import decode_record, first_checksum, next_checksum
from durable.engine.turn import outgoing_messages
from durable.errors import HistoryDamagedError, StoreError
from durable.messages import heartbeat_key
from durable.provider import InstanceFilter, InstanceRow, Provider, Status
from durable.worker.claims import DELIVERIES_MAX, DELIVERIES_SPAN_US, worker_lost
from durable.worker.live import LiveInstance, OwnerState
from durable.worker.steps import replaces
from durable.worker.turns import Turns

SLICE_S = 0.02
"""How long a replay goes on before it lets the loop do something else."""

UNFINISHED = (Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED)


@dataclasses.dataclass(slots=True)
class LostAttempts:
    """What a former owner held of one instance: to be started again, or lost for good."""

    requests: list[tuple[ev.ActivityScheduled, str]]
    lost: list[ev.ActivityFailed]
    state: OwnerState


class Loader:
    """Brings an instance into memory so that its next turn can run."""

    def __init__(self, provider: Provider, turns: Turns, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._turns = turns
        self._loop = loop
        self._heartbeats: dict[str, bytes] = {}

    def is_needed(self, live: LiveInstance) -> bool:
        """Tell whether something must be read before the instance's next turn."""
        row = live.row
        if row is None:
            return True
        if row.status.is_finished:
            return False
        if _is_terminated(live) or _replaces(live, row):
            return live.children is None and _is_recursive(live)
        if not live.is_recovered and row.open_work:
            return True
        return live.execution is None and row.records > 0

    async def load(self, lives: Sequence[LiveInstance]) -> AsyncIterator[tuple[LiveInstance, BaseException | None]]:
        """Load instances one after the other; give each with what keeps it from going on, if anything does.

        Raises StoreError if the store does not answer.
        """
        without_row = [live for live in lives if live.row is None]
        if without_row:
            rows = await self._provider.load([(live.key, None) for live in without_row])
            for live, row in zip(without_row, rows, strict=True):
                live.row = row
                live.state = OwnerState.decode(row.state) if row is not None else OwnerState()
        for live in lives:
            try:
                await self._bring_in(live)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever is wrong with this one is its own reason to stall)
                self._turns.close(live.drop_execution())
                yield live, error
            else:
                yield live, None

    async def _bring_in(self, live: LiveInstance) -> None:
        row = live.row
        if row is None or row.status.is_finished:
            live.is_recovered = True
            return
        if _is_terminated(live) or _replaces(live, row):
            live.children = await self._children(row) if _is_recursive(live) else []
            live.is_recovered = True
            return
        if live.execution is None and row.records > 0:
            live.execution = await self._replay(row)
        if not live.is_recovered and live.execution is not None:
            await self._read_heartbeats(live, row)
            if live.state.cursor is not None:
                await self._read_outbox(live, row)

    async def _replay(self, row: InstanceRow) -> Execution:
        execution = self._turns.new_execution(row)
        chain = first_checksum(row.key, row.run_id, row.generation)
        expected = 0
        while expected < row.records:
            records = await self._provider.read_history(row.run_id, row.generation, expected)
            if not records:
                raise HistoryDamagedError(f"history record {expected} of {row.records} is missing")
            for stored in records:
                if expected == row.records:
                    break
                chain = next_checksum(chain, stored.data)
                if stored.index != expected or stored.checksum != chain:
                    raise HistoryDamagedError(f"history record {expected} does not match its checksum")
                expected += 1
            pending = [(decode_record(stored.data), len(stored.data)) for stored in records]
            await self._feed(execution, pending)
        if chain != row.chain:
            raise HistoryDamagedError("the history does not end with the checksum in the instance's row")
        return execution

    async def _feed(self, execution: Execution, records: list[Any]) -> None:
        """Feed records in slices, each in a callback of the loop: orchestrator code never runs inside a task."""
        position = 0

        def some() -> None:
            nonlocal position
            until = self._loop.time() + SLICE_S
            while position < len(records) and self._loop.time() < until:
                record, size_bytes = records[position]
                position += 1
                self._turns.feed(execution, record, size_bytes)

        while position < len(records):
            await self._in_callback(some)

    async def _in_callback(self, function: Callable[[], None]) -> None:
        done = self._loop.create_future()

        def call() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(None)

        self._loop.call_soon(call)
        await done

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
        memos = await self._provider.read_memos(heartbeat_key(row.run_id, row.generation, 0).removesuffix("0"))
        self._heartbeats.update({memo.key: memo.data for memo in memos})

    async def _read_outbox(self, live: LiveInstance, row: InstanceRow) -> None:
        """Build again what a large turn had still to send."""
        assert live.state.cursor is not None
        assert live.execution is not None
        generation, index, sent = live.state.cursor
        records = await self._provider.read_history(row.run_id, generation, index, 1)
        messages = list(outgoing_messages(decode_record(records[0].data), live.execution.sender()))
        live.outbox.extend(messages[sent:])

    def lost_attempts(self, live: LiveInstance, now: int) -> LostAttempts:
        """Say which held attempts of an instance nobody runs, and count their delivery."""
        state = dataclasses.replace(live.state, deliveries=dict(live.state.deliveries))
        found = LostAttempts([], [], state)
        execution, row = live.execution, live.row
        if execution is None or row is None:
            return found
        running = {address.task_id for address in live.held}
        for task_id, request in execution.open_activities.items():
            if task_id in running or state.is_queued(task_id):
                continue
            count, since = state.deliveries.get(task_id, (1, now))
            if count >= DELIVERIES_MAX and now - since >= DELIVERIES_SPAN_US:
                found.lost.append(worker_lost(request, count))
                continue
            state.deliveries[task_id] = [count + 1, since]
            heartbeat = self._heartbeats.pop(heartbeat_key(row.run_id, row.generation, task_id), None)
            if heartbeat is not None:
                request = dataclasses.replace(request, last_heartbeat=heartbeat)
            found.requests.append((request, execution.derived_id("activity", request.call_id)))
        return found


def _is_terminated(live: LiveInstance) -> bool:
    return any(isinstance(pending.event, ev.OrchestrationTerminated) for pending in live.control)


def _is_recursive(live: LiveInstance) -> bool:
    """Children end with a replaced parent, and with a terminated one unless only it was meant."""
    return not any(
        isinstance(pending.event, ev.OrchestrationTerminated) and not pending.event.recursive
        for pending in live.control
    )


def _replaces(live: LiveInstance, row: InstanceRow) -> bool:
    return any(replaces(pending, row) for pending in live.control)
