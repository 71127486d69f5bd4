"""A client beside a worker, as in one process: its starts may begin there at once.

In truth the two die together. Here the client outlives its worker, so that there is somebody to see what is left: what was on
its way there when the worker died or stood still is given back, and stored as a message, as after any other trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from durable.client.connection import Direct
from durable.errors import DurableError
from durable.events import HistoryEvent, InstanceKey
from durable.provider import Message
from durable.testing.simulation.machines import Machine


class Neighbours:
    """All workers of a world, each as the one in whose process a client is. See `durable.client.connection.Direct`."""

    def __init__(self, machines: Callable[[], Iterable[Machine]]) -> None:
        self._machines = machines
        self._sent: dict[asyncio.Future[bool], Machine] = {}

    def begin(self, message: Message, events: Sequence[HistoryEvent] | None = None) -> asyncio.Future[bool] | None:
        """Begin a run at the worker that takes it, if one does."""
        for machine in self._machines():
            direct = _direct_of(machine)
            begun = None if direct is None else direct.begin(message, events)
            if begun is not None:
                return self._answer_of(begun, machine)
        return None

    def _answer_of(self, begun: asyncio.Future[bool], machine: Machine) -> asyncio.Future[bool]:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._sent[answer] = machine
        begun.add_done_callback(lambda begun: self._tell(answer, has_begun=_is_true(begun)))
        return answer

    def on_its_way(self, key: InstanceKey) -> asyncio.Future[bool] | None:
        """Return the future of a start of this id that is on its way to a worker."""
        found = (direct.on_its_way(key) for machine in self._machines() if (direct := _direct_of(machine)) is not None)
        return next((future for future in found if future is not None), None)

    def lose(self, machine: Machine) -> None:
        """A worker is dead, or stands still: nobody waits for it."""
        for answer in [answer for answer, place in self._sent.items() if place is machine]:
            self._tell(answer, has_begun=False)

    def _tell(self, answer: asyncio.Future[bool], *, has_begun: bool) -> None:
        self._sent.pop(answer, None)
        if not answer.done():
            answer.set_result(has_begun)


def _direct_of(machine: Machine) -> Direct | None:
    if machine.worker is None or machine.process.is_dead or machine.process.is_stopped:
        return None
    try:
        return machine.worker.client.connection.direct
    except DurableError:  # it has not begun yet, or has ended
        return None


def _is_true(begun: asyncio.Future[bool]) -> bool:
    return not begun.cancelled() and begun.exception() is None and begun.result()
