"""What the engine needs from outside, and how it begins the user's code: handed in by whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from durable.errors import FailureDetails

if TYPE_CHECKING:
    from durable.engine.execution import Execution


class Ports(Protocol):
    """The edge, as the engine sees it."""

    strict: bool
    code_digest: bytes | None

    def seal(self, plain: bytes) -> tuple[bytes, bytes | None]:
        """Return the stored form of an encoded value, and the digest of the plain form where the two differ."""
        ...

    def digest(self, plain: bytes) -> bytes:
        """Return the digest of a plain form, as `seal` does."""
        ...

    def describe(self, error: BaseException) -> FailureDetails:
        """Turn an exception that left the orchestrator into details."""
        ...

    def encode_result(self, value: Any) -> bytes:
        """Encode what the orchestrator returned. Raises for what cannot be stored: that fails the orchestration."""
        ...

    def value_differs(self, explanation: str) -> None:
        """Count and log a value that differs on replay (when not strict)."""
        ...


Program: TypeAlias = "Callable[[Execution], Any]"
"""Begins the user's code: returns a generator, a coroutine or, of a plain function, the result."""
