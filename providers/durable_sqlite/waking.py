"""Who hears of what is written: listeners of this process at once, others by their pipes; and what is heard of those."""

from __future__ import annotations

import asyncio
import functools
import logging
import operator
from collections.abc import Callable

from durable.listeners import Listener, ListenersOfProcess
from durable.news import CHANGED_S, News, heard
from durable.provider import Wakeup
from durable_sqlite.connection import WriteConnection
from durable_sqlite.neighbours import Neighbours, Pipe
from durable_sqlite.watching import FileWatch

logger = logging.getLogger("durable.sqlite")

REMIND_S_FIRST = 0.01
REMIND_S_MAX = 0.64
"""When a neighbour that could not take a line is told so, if nothing else is to be told: after that long, twice that, and so
on. Then it has looked by itself."""

_listeners = ListenersOfProcess()


class _Note(Listener):
    """Lets a watch know what another object of this process has written, for which nobody need look into the file."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: FileWatch) -> None:
        super().__init__(loop, lambda _: None)
        self._watch = watch

    def tell(self, wakeup: Wakeup) -> None:
        self._watch.told()


class Waking:
    """The wake-ups of one provider object, for a hub of a file. `owned`: the partitions of its leases, as bits.

    Whoever listens first makes a pipe and begins to look at the file, and the last one ends both.
    """

    def __init__(self, write: WriteConnection, hub: int, hub_name: str, *, has_neighbours: bool) -> None:
        self.owned: dict[str, int] = {}
        self._write = write
        self._hub = hub
        self._place = (write.path, hub_name)
        self._own: list[Listener] = []
        self._watch: FileWatch | None = None
        self._note: Listener | None = None
        self._pipe: Pipe | None = None
        self._neighbours = Neighbours(write.path, hub) if has_neighbours else None
        self._news = News()  # what neighbours are still to be told
        self._is_telling = False
        self._telling: asyncio.TimerHandle | None = None
        self._reminding: asyncio.TimerHandle | None = None

    def is_heard(self) -> bool:
        """Tell whether anybody, here or in another process, would hear of a row."""
        return bool(_listeners.at(self._place)) or (self._neighbours is not None and bool(self._neighbours.names()))

    # ---- telling

    def tell(self, wakeup: Wakeup) -> None:
        """Wake all who listen to this hub of this file: those of this process, and soon the others."""
        if self._watch is not None:
            self._watch.hurry()
        for listener in _listeners.at(self._place):
            if listener is not self._note:  # what this object writes the watch does not see
                listener.tell(wakeup)
        if self._neighbours is None or not self._neighbours.names():
            return
        self._news.add(wakeup, self._owned_bits())
        if self._news.is_urgent:
            if not self._is_telling:
                self._is_telling = True
                asyncio.get_running_loop().call_soon(self._tell_neighbours)
        elif self._news and self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(CHANGED_S, self._tell_neighbours)

    def _tell_neighbours(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._is_telling, self._telling = False, None
        news, self._news = self._news, News()
        if self._neighbours is not None and news:
            self._neighbours.tell(news)
            if self._reminding is None:
                self._remind_in(REMIND_S_FIRST)

    def _remind_in(self, pause_s: float) -> None:
        self._reminding = None
        if self._neighbours is not None and self._neighbours.are_behind and pause_s <= REMIND_S_MAX:
            self._reminding = asyncio.get_running_loop().call_later(pause_s, self._remind, pause_s)

    def _remind(self, pause_s: float) -> None:
        if self._neighbours is not None:
            self._neighbours.remind()
        self._remind_in(2 * pause_s)

    def _owned_bits(self) -> int:
        return functools.reduce(operator.or_, self.owned.values(), 0)

    # ---- hearing

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        loop = asyncio.get_running_loop()
        listener = Listener(loop, callback)
        self._own.append(listener)
        _listeners.add(self._place, listener)
        if self._watch is None:
            self._watch = FileWatch(loop, self._write.data_version, lambda: self._hear(Wakeup(anything=True)))
            self._note = _Note(loop, self._watch)
            _listeners.add(self._place, self._note)
            self._pipe = self._make_pipe(loop)
        return functools.partial(self._stop, listener)

    def _make_pipe(self, loop: asyncio.AbstractEventLoop) -> Pipe | None:
        if self._neighbours is None:
            return None
        try:
            return Pipe(loop, self._write.path, self._hub, self._hear_line)
        except (OSError, NotImplementedError) as error:
            logger.debug(
                "what others do with '%s' is found by looking, for no pipe can be made: %s", self._write.path, error
            )
            return None

    def _hear_line(self, line: str) -> None:
        wakeup = heard(line, self._owned_bits())
        if wakeup is not None and self._watch is not None:
            self._watch.told()
            self._hear(wakeup)

    def _hear(self, wakeup: Wakeup) -> None:
        for listener in self._own:
            listener.tell(wakeup)

    def _stop(self, listener: Listener) -> None:
        _listeners.remove(self._place, listener)
        if listener in self._own:
            self._own.remove(listener)
        if not self._own and self._watch is not None:
            self._watch.stop()
            self._watch = None
            if self._note is not None:
                _listeners.remove(self._place, self._note)
                self._note = None
            if self._pipe is not None:
                self._pipe.close()
                self._pipe = None

    # ---- the end

    def stop_listening(self) -> None:
        """Let nobody hear anything any more."""
        for listener in list(self._own):
            self._stop(listener)

    def close(self) -> None:
        """Tell what is still to be told, and let go of the others' pipes."""
        self._tell_neighbours()
        if self._reminding is not None:
            self._reminding.cancel()
        if self._neighbours is not None:
            self._neighbours.close()
            self._neighbours = None
