"""How commands end: exit codes, and the one line in which an error is told."""

from __future__ import annotations

import enum
from typing import Any, Final

import click

from durable.errors import (
    InstanceNotFoundError,
    InvalidInputError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
)


class Exit(enum.IntEnum):
    """Exit codes of all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_COMPLETED = 4
    TIMEOUT = 5
    INTERRUPTED = 130


_EXITS: Final[tuple[tuple[Any, Exit], ...]] = (
    (InstanceNotFoundError, Exit.NOT_FOUND),
    ((OrchestrationFailedError, OrchestrationCancelledError, OrchestrationTerminatedError), Exit.NOT_COMPLETED),
    (TimeoutError, Exit.TIMEOUT),
    (InvalidInputError, Exit.USAGE),
)


def exit_of(error: BaseException) -> Exit:
    """Return the exit code that an error of the package ends with."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAILED)


class Refused(click.ClickException):
    """An error of the store or of what was asked of it, as one line and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # what click reads
        """The exit code of the process."""
        return self.code
