"""A logger that says each thing once, however often the code is replayed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from durable.context.handlers import is_looking

if TYPE_CHECKING:
    from durable.engine.execution import Execution


class ReplayLogger(logging.Logger):
    """A logger of one execution: the shared one of its name does the work, and this one decides whether and adds fields.

    Silent while replaying, and once nothing that the code does counts any more.
    """

    def __init__(self, name: str, execution: Execution) -> None:
        super().__init__(name)
        self.parent = logging.getLogger(name)  # levels, handlers and filters are configured there
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 (the standard library's name)
        """Tell whether a record of this level is wanted now."""
        execution = self._execution
        is_silent = execution.is_replaying or (not is_looking(execution) and execution.is_over)
        if is_silent or self.parent is None:
            return False
        return self.parent.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record on, through the filters of the shared logger too."""
        if self.parent is not None and self.filter(record):
            self.parent.handle(record)

    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802 (as above)
        """Make a record that says whose it is."""
        record = super().makeRecord(*args, **options)
        fields = {"instance_id": self._execution.key.id, "run_id": self._execution.run_id}
        for name, value in fields.items():
            record.__dict__.setdefault(name, value)
        return record

    def getChild(self, suffix: str) -> ReplayLogger:  # noqa: N802 (as above)
        """Return a logger below this one, silent at the same times."""
        return ReplayLogger(f"{self.name}.{suffix}", self._execution)
