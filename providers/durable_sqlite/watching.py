"""How this process learns that another one has written: a look at the file now and then."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable

LOOK_S_MIN = 0.005
LOOK_S_QUIET = 0.05
LOOK_S_MAX = 0.1
UNTOLD_S = 0.02
"""How long between two looks for changes of other processes: while something happens, half a second later, and after
five seconds of silence, when a look every 50 ms would still cost 0.4 % of a core (a bare timer alone 0.3 %). A change that
nobody has told of within UNTOLD_S was made by somebody who does not tell."""


class FileWatch:
    """Looks at a number that every other connection's commit changes; sooner again while something happens.

    `changed()` is called after such a commit, unless it was told of (`told`).
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, version: Callable[[], int | None], changed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._context = contextvars.copy_context()  # not that of whoever writes: see Listener
        self._version = version
        self._changed = changed
        self._last = version()
        self._pause_s = LOOK_S_MIN
        self._untold_since: float | None = None
        self._told_at = -math.inf
        self._timer = loop.call_later(self._pause_s, self._look, context=self._context)

    def told(self) -> None:
        """Note that another process has told what it wrote."""
        self._told_at = self._loop.time()

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
        version, now = self._version(), self._loop.time()
        if version is not None and version != self._last:
            if self._last is not None and self._untold_since is None:
                self._untold_since = now
            self._last = version
            self._pause_s = LOOK_S_MIN
        elif self._untold_since is None:
            growth = 1.3 if self._pause_s < LOOK_S_QUIET else 1.01
            self._pause_s = min(self._pause_s * growth, LOOK_S_MAX)
        if self._untold_since is not None:
            if self._told_at > self._untold_since - UNTOLD_S:
                self._untold_since = None
            elif now >= self._untold_since + UNTOLD_S:
                self._untold_since = None
                self._changed()
        self._timer = self._loop.call_later(self._pause_s, self._look, context=self._context)
