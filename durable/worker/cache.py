"""The engines that are kept between turns, so that a turn feeds only what is new."""

from __future__ import annotations

import collections
from collections.abc import Callable

from durable.engine.execution import Execution
from durable.events import InstanceKey
from durable.worker.live import LiveInstance


class Cache:
    """At most `limit` instances keep their engine; the one that was used longest ago loses it first.

    `close(execution)`: end an engine. `forget(live)`: nothing of an instance is needed in memory.
    """

    def __init__(
        self, limit: int, *, close: Callable[[Execution | None], None], forget: Callable[[LiveInstance], None]
    ) -> None:
        self._limit = limit
        self._close = close
        self._forget = forget
        self._kept: collections.OrderedDict[InstanceKey, LiveInstance] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, live: LiveInstance) -> None:
        """Keep an instance's engine, if it has one and there is room for any; let others go for it."""
        if live.execution is None or live.is_loading:
            return
        if not self._limit:
            if not live.outbox:  # or each part of a large turn would be sent after a replay of its own
                self._close(live.drop_execution())
            return
        self._kept[live.key] = live
        self._kept.move_to_end(live.key)
        while len(self._kept) > self._limit:
            key, oldest = self._kept.popitem(last=False)
            if oldest.is_busy or oldest.is_loading or oldest.outbox:
                self._kept[key] = oldest
                return
            self._close(oldest.drop_execution())
            if oldest.is_idle:
                self._forget(oldest)

    def discard(self, key: InstanceKey) -> None:
        """Note that an instance has no engine any more."""
        self._kept.pop(key, None)

    @property
    def is_off(self) -> bool:
        """True where every turn replays from the start."""
        return not self._limit
