"""Notes that attempts have begun, for whoever shows what waits and what runs; what is quick leaves none."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from durable.provider import Memo

if TYPE_CHECKING:
    from durable.worker.attempt import Attempt

AFTER_S: Final = 0.05
"""How long an attempt has run when a note says that it has begun: what is over by then needs none."""


class StartNotes:
    """Asks attempts for their notes, a moment after they have begun. `on_note(memo)` is called in the loop."""

    def __init__(self, context: contextvars.Context, on_note: Callable[[Memo], None]) -> None:
        self._context = context
        self._on_note = on_note
        self._begun: list[Attempt] = []

    def begun(self, attempt: Attempt) -> None:
        """Take note of an attempt that begins."""
        if not self._begun:
            asyncio.get_running_loop().call_later(AFTER_S, self._tell, context=self._context)
        self._begun.append(attempt)

    def _tell(self) -> None:
        begun, self._begun = self._begun, []
        for attempt in begun:
            note = None if attempt.context is None or attempt.is_settled else attempt.context.start_note()
            if note is not None:
                self._on_note(note)
