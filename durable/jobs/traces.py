"""What a job sees of those above it: read from the traces that they left, once for each worker."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Final

from durable.client.connection import Connection
from durable.errors import FailureDetails
from durable.events import InstanceKey
from durable.history import plain_value
from durable.jobs.model import JobStatus
from durable.jobs.wire import Trace, trace_key

KEPT_BYTES_MAX: Final = 32 * 1024 * 1024
"""Payloads of jobs that a worker keeps at hand for those below them; the ones used longest ago go first."""

OVERHEAD_BYTES: Final = 500
"""Roughly what a job costs beside its payloads."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParentJob:
    """A job as those below it see it: as it had ended when they were asked for, or IN_PROGRESS. Values are plain data."""

    id: str
    function: str
    status: JobStatus
    request: Any
    result: Any
    error: FailureDetails | None
    parent: ParentJob | None = dataclasses.field(repr=False)


class JobTraces:
    """The traces that a client has read, of jobs that have settled. Each is read once as long as it is kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: collections.OrderedDict[tuple[str, int], tuple[ParentJob, int]] = collections.OrderedDict()
        self._bytes = 0

    async def load(self, key: InstanceKey, run_id: str, number: int) -> ParentJob | None:
        """Return a job of a tree with all those above it; None where no trace of it is left (its run was purged).

        Raises StoreUnavailableError, and PayloadError for a trace that cannot be read.
        """
        found: list[tuple[int, Trace]] = []
        above: ParentJob | None = None
        wanted: int | None = number
        while wanted is not None:
            kept = self._kept.get((run_id, wanted))
            if kept is not None:
                self._kept.move_to_end((run_id, wanted))
                above = kept[0]
                break
            memos = await self._connection.provider.read_memos(trace_key(run_id, wanted), 1)
            if not memos:
                break
            trace = Trace.decode(memos[0].data)
            found.append((wanted, trace))
            wanted = trace.parent
        is_settled = above is None or above.status.is_settled
        for place, trace in reversed(found):
            above = self._job(key, place, trace, above)
            is_settled = is_settled and trace.status.is_settled
            if is_settled:  # what still runs is read again
                self._keep((run_id, place), above, len(trace.request or b"") + len(trace.result or b""))
        return above

    def _job(self, key: InstanceKey, number: int, trace: Trace, above: ParentJob | None) -> ParentJob:
        sealer, what = self._connection.sealer, f"of job '{trace.name}'"
        return ParentJob(
            str(number),
            trace.name,
            trace.status,
            plain_value(trace.request, sealer, f"request {what}", key.id),
            plain_value(trace.result, sealer, f"result {what}", key.id),
            trace.error,
            above,
        )

    def _keep(self, place: tuple[str, int], job: ParentJob, size: int) -> None:
        size += OVERHEAD_BYTES
        self._kept[place] = (job, size)
        self._bytes += size
        while self._bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            _, (_, gone) = self._kept.popitem(last=False)
            self._bytes -= gone
