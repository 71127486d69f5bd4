"""Queries and updates on the worker's side: what is set apart from a turn, and how whoever asked is answered.

A query is no arrival: it is answered behind the turn that it came with, from the code as that leaves it, by a memo in the
same commit. So nobody is told of what is not durable. An update is an arrival; one that the turn refuses is answered by a
memo too, and one that came too early is put aside and shown to each further turn, until it is taken.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from durable.context.handlers import SpoiltExecutionError, answer_query
from durable.engine.execution import Execution
from durable.engine.loop import run_inside
from durable.errors import TurnBudgetExceededError
from durable.events import HistoryEvent
from durable.exchanges import (
    ANSWER_KEPT_US,
    NOT_YET,
    TAKEN_BEFORE,
    Answer,
    AnswerKind,
    QueryReceived,
    UpdateReceived,
    answer_key,
    encode_answer,
)
from durable.failures import describe
from durable.provider import InstanceRow, Memo
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, Pending
from durable.worker.steps import Prepared, Steps, consumed_by

logger = logging.getLogger("durable.worker")

ASIDE_MAX: Final = 64
"""Updates that wait in memory while their instance is suspended: each may be as large as a payload."""


class Asking:
    """Answers for one worker. `watched(execution, function, *args)` and `close(execution)`: see `Turns`."""

    def __init__(
        self,
        clock: StoreClock,
        steps: Steps,
        watched: Callable[..., Any],
        close: Callable[[Execution | None], None],
    ) -> None:
        self._clock = clock
        self._steps = steps
        self._watched = watched
        self._close = close

    # ---- queries

    def set_apart(self, prepared: Prepared, arrivals: list[HistoryEvent]) -> list[Pending]:
        """Take the queries out of what a turn is about; return them."""
        queries = {id(event) for event in arrivals if isinstance(event, QueryReceived)}
        if not queries:
            return []
        arrivals[:] = [event for event in arrivals if id(event) not in queries]
        asked = [item for item in prepared.taken if id(item.event) in queries]
        prepared.taken = [item for item in prepared.taken if id(item.event) not in queries]
        return asked

    def answer(
        self, live: LiveInstance, prepared: Prepared, made: Prepared | None, asked: list[Pending]
    ) -> Prepared | None:
        """Answer queries from the code as a turn has left it; `made` is what that comes to, None for nothing."""
        execution = live.execution
        goes_on = prepared.turn is not None and prepared.turn.next_generation is not None
        if execution is not None and execution.started is None:
            live.aside += asked  # its start is still to come
            return made
        if execution is None or goes_on:  # it is to be read again, or the next generation is asked
            live.put_back(asked)
            return made
        is_spoilt = False
        answered: list[Pending] = []
        memos: list[Memo] = []
        for item in asked:
            if is_spoilt:
                break
            answer, is_spoilt = self._answer(execution, item.event)
            answered.append(item)
            memos.append(self._memo(execution.run_id, item.event.query_id, answer))  # type: ignore[attr-defined]
        if is_spoilt:
            self._close(live.drop_execution())
            live.put_back(asked[len(answered) :])
        made = made or prepared
        made.add_memos(memos)
        consumed = consumed_by(answered)
        if made.step is not None:
            made.step = dataclasses.replace(made.step, consumed=[*made.step.consumed, *consumed])
        else:
            made.consumed = [*made.consumed, *consumed]
        made.taken = [*made.taken, *answered]  # they come back with it, should the store refuse the step
        return made

    def _answer(self, execution: Execution, event: Any) -> tuple[Answer, bool]:
        found: list[tuple[Answer, bool]] = []
        try:
            self._watched(execution, run_inside, execution.loop, lambda: found.append(answer_query(execution, event)))
            return found[0]
        except TurnBudgetExceededError as error:
            return Answer(AnswerKind.FAILURE, details=describe(error)), True
        except Exception as error:
            logger.exception("query '%s' of '%s' failed inside the engine", event.name, execution.key.id)
            return Answer(AnswerKind.FAILURE, details=describe(error)), True

    # ---- updates

    def refuse(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, refused: Sequence[tuple[HistoryEvent, str]]
    ) -> None:
        """Take in what a turn has refused: answer updates, put those aside that came too early, note everything else."""
        early: set[int] = set()
        for event, reason in refused:
            if not isinstance(event, UpdateReceived):
                self._steps.note_dropped(prepared, row, event, reason)
            elif reason is NOT_YET and len(live.aside) + len(early) < ASIDE_MAX:
                early.add(id(event))
            elif reason is not TAKEN_BEFORE:
                text = (
                    f"{ASIDE_MAX} updates wait for '{row.key.id}' already, which is suspended"
                    if reason is NOT_YET
                    else reason
                )
                prepared.add_memos([self._refusal(row, event, text)])
        if early:
            live.aside += [item for item in prepared.taken if id(item.event) in early]
            prepared.taken = [item for item in prepared.taken if id(item.event) not in early]

    def refuse_spoiling(self, live: LiveInstance, row: InstanceRow, error: Exception) -> Prepared | None:
        """Refuse the update whose validator has made a turn unusable; the turn is taken again without it.

        None where that was not the reason, or where the update comes from no message.
        """
        if not isinstance(error, SpoiltExecutionError):
            return None
        item = next((item for item in live.waiting if item.event is error.event and item.message is not None), None)
        if item is None:
            return None
        logger.error("instance '%s': %s", row.key.id, error, extra={"instance_id": row.key.id})
        queue = live.control if item.is_control else live.normal
        queue.remove(item)
        prepared = Prepared(live, taken=[item], consumed=consumed_by([item]))
        prepared.add_memos([self._refusal(row, error.event, str(error))])
        return prepared

    def _refusal(self, row: InstanceRow, event: UpdateReceived, text: str) -> Memo:
        return self._memo(row.run_id, event.update_id, Answer(AnswerKind.REFUSED, text=text))

    def _memo(self, run_id: str, asked_id: str, answer: Answer) -> Memo:
        return Memo(answer_key(run_id, asked_id), encode_answer(answer), self._clock.now() + ANSWER_KEPT_US)
