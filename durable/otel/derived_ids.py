"""Spans with ids that are given: whoever tells of a thing calls it by one id, and knows that of what is above it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

from opentelemetry import trace


class IdGenerator(Protocol):
    """What makes ids, as OpenTelemetry's SDK asks for them."""

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        ...

    def generate_trace_id(self) -> int:
        """Return the id of the next trace."""
        ...


class DerivedIds:
    """Gives the ids that it is told to, in this thread; else those of the program's own generator."""

    def __init__(self, otherwise: IdGenerator) -> None:
        self._otherwise = otherwise
        self._given = threading.local()

    @contextlib.contextmanager
    def given(self, trace_id: int, span_id: int) -> Iterator[None]:
        """Give these while it lasts."""
        self._given.ids = (trace_id, span_id)
        try:
            yield
        finally:
            self._given.ids = None

    def generate_trace_id(self) -> int:
        """Return the id of a trace that begins."""
        ids: tuple[int, int] | None = getattr(self._given, "ids", None)
        return self._otherwise.generate_trace_id() if ids is None else ids[0]

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        ids: tuple[int, int] | None = getattr(self._given, "ids", None)
        return self._otherwise.generate_span_id() if ids is None else ids[1]

    def is_trace_id_random(self) -> bool:
        """Tell whether W3C's flag for a random trace id holds: what is derived is as evenly spread, but not random."""
        asked = getattr(self._otherwise, "is_trace_id_random", None)
        return getattr(self._given, "ids", None) is None and asked is not None and bool(asked())


def derive_ids(tracer: trace.Tracer) -> DerivedIds | None:
    """Let a tracer of the SDK take its ids from what is returned; None for a tracer that makes no spans of its own.

    The SDK's tracer has its generator as a public attribute, and this tracer serves nobody else.
    """
    found = getattr(tracer, "id_generator", None)
    if found is None:
        return None
    if isinstance(found, DerivedIds):  # another Telemetry of the same provider
        return found
    ids = DerivedIds(found)
    tracer.id_generator = ids  # type: ignore[attr-defined]
    return ids
