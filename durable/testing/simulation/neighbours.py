"""A client beside a worker, as in one process: its starts may begin there at once.

In truth the two die together. Here the client outlives its worker, so that there is somebody to see what is left: what was on
its way there when the worker died or stood still is given back, and stored as a message, as after any other trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from durable.client.connection import Direct
from durable.errors import DurableError
from durable.events import HistoryEvent, InstanceKey
from durable.invariants import Accepted, Answers
from durable.provider import Delivery, Message, Verdict
from durable.testing.simulation.checking import note_answers, note_doubt
from durable.testing.simulation.machines import Machine
from durable.testing.simulation.telling import of_submit

READY_S_MAX = 3.0
LOOK_S = 0.01


class Neighbours:
    """All workers of a world, each as the one in whose process a client is. See `durable.client.connection.Direct`."""

    def __init__(
        self,
        machines: Callable[[], Iterable[Machine]],
        answers: Answers,
        accepted: Accepted,
        narrate: Callable[[Iterable[str]], None],
    ) -> None:
        self._machines = machines
        self._narrate = narrate
        self._answers, self._accepted = answers, accepted
        self._sent: dict[asyncio.Future[bool], tuple[Machine, Message]] = {}

    async def are_ready(self) -> None:
        """Wait until a worker owns something: before that it has no client. Not for ever: the store may be out of reach."""
        until = asyncio.get_running_loop().time() + READY_S_MAX
        while not any(map(_owns_something, self._machines())) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_S)

    def begin(self, message: Message, events: Sequence[HistoryEvent] | None = None) -> asyncio.Future[bool] | None:
        """Begin a run at the worker that takes it, if one does."""
        for machine in self._machines():
            direct = _direct_of(machine)
            begun = None if direct is None else direct.begin(message, events)
            if begun is not None:
                self._narrate(of_submit([message]))
                return self._answer_of(begun, machine, message)
        return None

    def near(self) -> Collection[int]:
        """No partitions in particular: all workers are here."""
        return ()

    def is_running(self, key: InstanceKey, run_id: str) -> bool:
        """Nobody knows: what a worker of another machine has in memory may be of a lease that it has lost."""
        return False

    def _answer_of(self, begun: asyncio.Future[bool], machine: Machine, message: Message) -> asyncio.Future[bool]:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._sent[answer] = machine, message
        begun.add_done_callback(lambda begun: self._tell(answer, has_begun=_outcome_of(begun)))
        return answer

    def on_its_way(self, key: InstanceKey) -> asyncio.Future[bool] | None:
        """Return the future of a start of this id that is on its way to a worker."""
        return next((answer for answer, (_, message) in self._sent.items() if message.target == key), None)

    def lose(self, machine: Machine) -> None:
        """A worker is dead, or stands still: nobody waits for it."""
        for answer in [answer for answer, (place, _) in self._sent.items() if place is machine]:
            self._tell(answer, has_begun=None)

    def _tell(self, answer: asyncio.Future[bool], *, has_begun: bool | None) -> None:
        """Tell the client, and take note of that; None: nobody knows."""
        found = self._sent.pop(answer, None)
        if found is None:
            return
        _, message = found
        if has_begun is None or (has_begun and answer.done()):
            note_doubt(self._answers, message)
        elif has_begun:
            stored = [Delivery(Verdict.STORED)]
            note_answers(self._answers, [message], stored)
            self._accepted.note([message], stored)
        if not answer.done():
            answer.set_result(bool(has_begun))


def _owns_something(machine: Machine) -> bool:
    return machine.worker is not None and machine.worker.health().partitions > 0


def _direct_of(machine: Machine) -> Direct | None:
    if machine.worker is None or machine.process.is_dead or machine.process.is_stopped:
        return None
    try:
        return machine.worker.client.connection.direct
    except DurableError:  # it has not begun yet, or has ended
        return None


def _outcome_of(begun: asyncio.Future[bool]) -> bool | None:
    return None if begun.cancelled() or begun.exception() is not None else begun.result()
