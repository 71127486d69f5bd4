"""Messages, memos and batches as the arguments of the functions that store them, and what became of them.

Everything is sent as arrays of composite values, so that a call is one statement whatever its size. What the store refuses
is found out here and left out, each item by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg

from durable.errors import StoreError
from durable.provider import (
    RECORD_PART_BYTES_MAX,
    Batch,
    Delivery,
    Expects,
    InstanceRow,
    Memo,
    Message,
    Priority,
    Progress,
    Step,
    StoredMessage,
    Verdict,
    partition_of,
)
from durable_postgres import refusal
from durable_postgres.rows import activity_of, changes_of, row_of, run_of, task_of

_STORED_TO_WAIT = 8
"""The functions' verdict on a start that was stored to take the place of an unfinished run later."""

_FIXED_COLUMNS = frozenset({"key", "partition", "run_id"})
_CHANGEABLE_COLUMNS = frozenset(field.name for field in dataclasses.fields(InstanceRow)) - _FIXED_COLUMNS
_PROGRESS_COLUMNS = frozenset(field.name for field in dataclasses.fields(Progress))
_USUAL_COLUMNS = frozenset({"output", "custom_status", "failure", "stall_reason", "completed_at"})


class Outgoing:
    """Messages as arguments: `messages`, and in two further arrays what stands in for them."""

    def __init__(self, messages: Sequence[Message], *, is_careful: bool) -> None:
        self.sent = messages
        self._is_careful = is_careful
        self.others: list[tuple[Any, ...]] = []
        self.memos: list[tuple[str, bytes, int]] = []
        self.messages = [self._argument(message) for message in messages]

    def _argument(self, message: Message) -> tuple[Any, ...]:
        refused = refusal.refusal_of_message(message, is_careful=self._is_careful)
        return self._value(message, refused, *self._other(message.otherwise))

    def _other(self, item: Message | Memo | None) -> tuple[Verdict | None, int | None, int | None]:
        """Return the verdict of the store on what stands in for a message, and its place among the others."""
        if item is None:
            return None, None, None
        if isinstance(item, Memo):
            if refusal.refusal_of_memo(item, is_careful=self._is_careful) is None:
                self.memos.append((item.key, item.data, item.expires_at))
                return None, None, len(self.memos)
            is_large = len(item.data) > refusal.VALUE_BYTES_MAX
            return Verdict.TOO_LARGE if is_large else Verdict.REFUSED, None, None
        refused = refusal.refusal_of_message(item, is_careful=self._is_careful)
        if refused is not None:
            return refused, None, None
        self.others.append(self._value(item, None, None, None, None))
        return None, len(self.others), None

    def _value(
        self,
        message: Message,
        refused: Verdict | None,
        other_refused: Verdict | None,
        other_message: int | None,
        other_memo: int | None,
    ) -> tuple[Any, ...]:
        others = (refused, other_refused, other_message, other_memo)
        if refused is not None:  # nothing of it is looked at
            return ("", "", 0, b"", Priority.NORMAL, 0, None, Expects.ABSENT, None, *others, None)
        key = message.target
        return (
            key.kind,
            key.id,
            message.partition,
            message.data,
            message.priority,
            message.visible_at,
            message.run_id,
            message.expects,
            None if message.start is None else run_of(message.start),
            *others,
            message.in_place_of,
        )


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of messages: a delivery each, and what those who listen are told."""

    deliveries: list[Delivery]
    stored: list[StoredMessage]
    begun: list[InstanceRow]
    has_others: bool = False  # something may have been stored in place of another
    has_replaced: bool = False  # a run may have taken the place of another


def outcome_of(sent: Sequence[Message], found: asyncpg.Record) -> Outcome:
    """Read the columns `verdicts`, `sequences`, `way_places` and `ways` of an answer; the last two may be missing."""
    outcome = Outcome([], [], [])
    if not sent:
        return outcome
    ways = dict(zip(found.get("way_places") or (), found.get("ways") or (), strict=True))
    for place, (message, verdict, sequence) in enumerate(
        zip(sent, found["verdicts"] or (), found["sequences"] or (), strict=True), 1
    ):
        if verdict not in (Verdict.STORED, _STORED_TO_WAIT):
            way = ways.get(place)
            outcome.deliveries.append(Delivery(Verdict(verdict), row=None if way is None else row_of(way)))
            outcome.has_others = outcome.has_others or message.otherwise is not None
            continue
        outcome.deliveries.append(Delivery(Verdict.STORED, sequence))
        is_waiting = verdict == _STORED_TO_WAIT
        outcome.stored.append(
            StoredMessage(
                sequence,
                message.target,
                message.partition,
                message.data,
                Priority.CONTROL if is_waiting else message.priority,
                message.visible_at,
                message.run_id,
                message.start,
            )
        )
        if message.start is not None and not is_waiting:
            outcome.begun.append(message.start)
            outcome.has_replaced = outcome.has_replaced or message.expects is not Expects.ABSENT
    return outcome


class Writing:
    """A batch as the arguments of `commit_v1`, without what the store refuses: `refused` and `refused_memos` name that.

    `in_use`: the steps, by index, that begin runs whose ids are in use. `begun` are the indexes of the others that begin some.
    """

    def __init__(
        self,
        batch: Batch,
        partitions: int,
        changed: Sequence[bool],
        in_use: Collection[int] = (),
        *,
        is_careful: bool,
    ) -> None:
        self._is_careful = is_careful
        self.batch = batch
        self.begun: list[int] = []
        self.refused: dict[int, str] = {}
        self.refused_memos: dict[int, str] = {}
        self.unsent: set[int] = set()
        self.told: list[InstanceRow] = []
        """What those who listen are told of the steps' rows, as far as the owner has said how these are left."""
        unsent_memos: set[int] = set()
        kept: list[tuple[Step, bool]] = []
        places: set[int] = set()
        has_rows = len(batch.rows) == len(batch.steps)
        for index, step in enumerate(batch.steps):
            places.add(partition_of(step.key, partitions))
            reason = f"the id '{step.key.id}' is in use" if index in in_use else self._refusal(step)
            if reason is not None:
                self.refused[index] = reason
                self.unsent.update(step.messages)
                unsent_memos.update(step.memos)
                continue
            is_told = changed[index]
            if step.begins is not None:
                self.begun.append(index)
                if is_told:
                    self.told.append(step.begins)
                continue
            # Of an idle one only the store knows whether it is still there.
            if is_told and has_rows and not step.removes_if_idle:
                self.told.append(batch.rows[index])
                is_told = False
            kept.append((step, is_told))
        self.outgoing = Outgoing(
            [message for index, message in enumerate(batch.messages) if index not in self.unsent],
            is_careful=is_careful,
        )
        self.memos = self._memos(unsent_memos) if batch.memos else []
        if len(kept) > 1:
            kept.sort(key=_place_of)  # everybody locks rows in this order
        self.steps = [step for step, _ in kept]
        self.written = [*self.steps, *(batch.steps[index] for index in self.begun)]
        self.has_activities = any(step.queue_adds and not step.progress.status.is_finished for step in self.written)
        """True where attempts were added that somebody may claim."""
        self._is_told = [is_told for _, is_told in kept]
        self._partitions = sorted(places)
        self._is_rare = False

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments from `p_partitions` to `p_memos`. None stands for what is empty: it costs nothing to send."""
        steps: list[tuple[Any, ...]] = []
        records: list[tuple[Any, ...]] = []
        consumed: list[int] = []
        dropped: list[tuple[str, int]] = []
        drops: list[tuple[Any, ...]] = []
        parks = False
        for step, is_told in zip(self.steps, self._is_told, strict=True):
            steps.append(self._value(step, is_told))
            records += _records_of(step)
            # Nearly every step has nothing of these: it costs less to look than to add nothing.
            if step.consumed:
                consumed += step.consumed
            if step.drop_generations:
                dropped += [(step.run_id, generation) for generation in step.drop_generations]
            if step.queue_drops:
                drops += [task_of(task) for task in step.queue_drops]
            if step.progress.parked_until > 0:
                parks = True
        consumed += self.batch.consumed
        return (
            self._partitions or None,
            steps or None,
            records or None,
            consumed or None,
            dropped or None,
            drops or None,
            (self._queue_adds() or None) if steps else None,
            parks,
            self._is_rare or bool(dropped),
            self._is_told_or_changed(),
            self.outgoing.messages or None,
            self.outgoing.others or None,
            self.outgoing.memos or None,
            self.memos or None,
        )

    def begins(self) -> tuple[Any, ...]:
        """Return the arguments that come before those of `commit_v1` where runs begin, for `begin_and_commit_v1`."""
        steps = [self.batch.steps[index] for index in self.begun]
        return (
            [run_of(step.begins) for step in steps if step.begins is not None],
            [record for step in steps for record in _records_of(step)],
            None if self.steps else self._queue_adds() or None,
        )

    def _queue_adds(self) -> list[tuple[Any, ...]]:
        if not self.has_activities:
            return []
        adds = [  # as the batch has them, not as they are locked: so old are they
            row
            for index, step in enumerate(self.batch.steps)
            if step.queue_adds and index not in self.refused and not step.progress.status.is_finished
            for row in step.queue_adds
        ]
        return [activity_of(row) for row in {row.task: row for row in adds}.values()]

    def _is_told_or_changed(self) -> bool | None:
        """Tell whether rows are asked for.

        None: nor does a step change further columns, or end its run, and a lighter statement will do.
        """
        if any(self._is_told):
            return True
        return False if any(step.changes or step.progress.status.is_finished for step in self.steps) else None

    def deliveries(self, sent: Sequence[Delivery]) -> list[Delivery]:
        """Return a delivery for each message of the batch, also for those that were left out."""
        if not self.unsent:
            return list(sent)
        answers = iter(sent)
        return [
            Delivery(Verdict.REFUSED) if index in self.unsent else next(answers)
            for index in range(len(self.batch.messages))
        ]

    def _refusal(self, step: Step) -> str | None:
        if step.changes and (unknown := sorted(step.changes.keys() - _CHANGEABLE_COLUMNS)):
            raise StoreError(f"no such columns, or fixed ones: {unknown}")
        reason = refusal.refusal_of_step(step, is_careful=self._is_careful)
        for memo in step.memos:
            reason = reason or refusal.refusal_of_memo(self.batch.memos[memo], is_careful=self._is_careful)
        return reason

    def _memos(self, unsent: set[int]) -> list[tuple[str, bytes, int]]:
        """Return the memos to write, of several under one key the last; note those that are refused by themselves."""
        kept: dict[str, Memo] = {}
        for index, memo in enumerate(self.batch.memos):
            if index in unsent:
                continue
            reason = refusal.refusal_of_memo(memo, is_careful=self._is_careful)
            if reason is None:
                kept[memo.key] = memo
            else:
                self.refused_memos[index] = reason
        return [(memo.key, memo.data, memo.expires_at) for memo in kept.values()]

    def _value(self, step: Step, is_told: bool) -> tuple[Any, ...]:
        progress, changes = step.progress, step.changes
        mask, values, replacing = 0, None, None
        if changes:
            progress, changes = _with_progress(progress, changes)
            mask, values = changes_of(changes)
            self._is_rare = self._is_rare or not changes.keys() <= _USUAL_COLUMNS
        if step.replaced_by is not None:
            replacing = run_of(step.replaced_by)
        if replacing is not None or step.removes_if_idle or step.drop_generations_below is not None:
            self._is_rare = True
        return (
            step.key.kind,
            step.key.id,
            step.run_id,
            *step.before,
            progress.generation,
            progress.records,
            progress.chain,
            progress.status,
            progress.updated_at,
            progress.due_at,
            progress.open_work,
            progress.parked_until,
            progress.state,
            is_told,
            mask,
            values,
            replacing,
            step.drop_generations_below,
            step.removes_if_idle,
        )


def _place_of(item: tuple[Step, bool]) -> tuple[str, str]:
    key = item[0].key
    return key.kind, key.id


def _with_progress(progress: Progress, changes: Mapping[str, Any]) -> tuple[Progress, Mapping[str, Any]]:
    """Let changes of columns that every turn writes count as what the turn writes."""
    written = {name: value for name, value in changes.items() if name in _PROGRESS_COLUMNS}
    if not written:
        return progress, changes
    others = {name: value for name, value in changes.items() if name not in written}
    return dataclasses.replace(progress, **written), others


def _records_of(step: Step) -> list[tuple[Any, ...]]:
    """Return a step's records as rows, long ones in parts of bounded length; the checksum stands in the first."""
    rows: list[tuple[Any, ...]] = []
    for generation, record in step.appends:
        data, checksum = record.data, record.checksum
        if len(data) <= RECORD_PART_BYTES_MAX:
            rows.append((step.run_id, generation, record.index, 0, data, checksum))
            continue
        for part, start in enumerate(range(0, len(data), RECORD_PART_BYTES_MAX)):
            piece = data[start : start + RECORD_PART_BYTES_MAX]
            rows.append((step.run_id, generation, record.index, part, piece, b"" if part else checksum))
    return rows
