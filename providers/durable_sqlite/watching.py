"""How this process learns that another one has written: a look at the file now and then."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

LOOK_S_MIN = 0.005
LOOK_S_QUIET = 0.05
LOOK_S_MAX = 0.1
"""How long between two looks for changes of other processes: while something happens, half a second later, and after
five seconds of silence, when a look every 50 ms would still cost 0.4 % of a core (a bare timer alone 0.3 %)."""


class FileWatch:
    """Looks at a number that every other connection's commit changes; sooner again while something happens."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, version: Callable[[], int | None], changed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._context = contextvars.copy_context()  # not that of whoever writes: see Listener
        self._version = version
        self._changed = changed
        self._last = version()
        self._pause_s = LOOK_S_MIN
        self._timer = loop.call_later(self._pause_s, self._look, context=self._context)

    def hurry(self) -> None:
        """Look often for a while: this process has written, so that others may soon answer."""
        if self._pause_s > 2 * LOOK_S_MIN:
            self._timer.cancel()
            self._timer = self._loop.call_later(LOOK_S_MIN, self._look, context=self._context)
        self._pause_s = LOOK_S_MIN

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        version = self._version()
        if version is not None and version != self._last:
            if self._last is not None:
                self._changed()
            self._last = version
            self._pause_s = LOOK_S_MIN
        else:
            growth = 1.3 if self._pause_s < LOOK_S_QUIET else 1.01
            self._pause_s = min(self._pause_s * growth, LOOK_S_MAX)
        self._timer = self._loop.call_later(self._pause_s, self._look, context=self._context)
