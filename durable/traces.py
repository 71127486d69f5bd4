"""The trace that a run belongs to, as its start carries it through the store, and the ids of spans, which follow from facts.

Only a start says it (`OrchestrationStarted.trace`); what replay compares knows nothing of it. A span's id is derived from the
request or the run that it tells of, so that every worker, before and after a crash, calls it by the same one, and nobody
need store it. The text is W3C's `traceparent`, and behind a comma that of a span which the trace is only linked with. A start
of a detached orchestration has nothing before the comma: a trace of its own begins with it. Spans of 0 are no span.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

from durable.events import TaskRef

NO_SPAN: Final = "0" * 16

_TEXT = re.compile(
    r"(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2}))?(?:,00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2}))?"
)


class SpanRef(NamedTuple):
    """A span of some trace, in hexadecimal digits. `flags`: W3C's; bit 0 says that it is sampled."""

    trace_id: str
    span_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @property
    def is_sampled(self) -> bool:
        """Whether anything is told of its trace."""
        return bool(self.flags & 1)

    def of(self, span_id: str) -> SpanRef:
        """Return another span of the same trace."""
        return self._replace(span_id=span_id)


class Trace(NamedTuple):
    """What a start carries. `parent`: who started it, or of NO_SPAN where its trace begins with it; None: none has begun."""

    parent: SpanRef | None = None
    link: SpanRef | None = None

    def __str__(self) -> str:
        return ("" if self.parent is None else str(self.parent)) + ("" if self.link is None else f",{self.link}")


def read_trace(text: str | None) -> Trace:
    """Return the trace that a start carries; none at all for a text that is none."""
    found = _TEXT.fullmatch(text or "")
    if found is None:
        return Trace()
    parts = found.groups()
    parent, link = (SpanRef(a, b, int(c, 16)) if a else None for a, b, c in (parts[:3], parts[3:]))
    return Trace(parent, link)


def started_by(trace: str | None, request: TaskRef, *, is_detached: bool) -> str | None:
    """Return what the start of another orchestration carries, given the trace of the run that asks for it."""
    parent = read_trace(trace).parent
    if parent is None:
        return None
    span = parent.of(derived_span(request))
    return str(Trace(link=span) if is_detached else Trace(span))


def derived_span(task: TaskRef, what: str = "") -> str:
    """Return the id of the span that tells of a request, or of something else (`what`) at that position."""
    return _derived(8, *task, what)


def derived_trace(run_id: str) -> str:
    """Return the id of the trace that begins with a run."""
    return _derived(16, run_id)


def _derived(size: int, *parts: object) -> str:
    found = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=size).digest()
    return found.hex() if any(found) else "1" * (2 * size)  # all zeros would be none
