"""The hub at a glance: how many instances stand how, what has waited longest, who works on it; and who did what."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import Field
from starlette.responses import Response

from durable.client.connection import Connection
from durable.errors import LeaseLostError, StoreError
from durable.history import utc_datetime
from durable.provider import InstanceFilter, InstanceRow, Lease, LeaseView, OtherLease, Status
from durable.web.calls import Call, Fields, answer
from durable.web.instances import row_shown
from durable.web.shown import View, iso
from durable.web.site import Site
from durable.worker.announcement import ACTIVITY, Announcement

HOUR_US: Final = 3600 * 1_000_000
MINUTE_US: Final = 60 * 1_000_000
SHOWN_MAX: Final = 8
"""Instances in each of the short lists."""

UNFINISHED: Final = tuple(status for status in Status if not status.is_finished)

# ---- workers


class LookAround:
    """A lease that owns nothing: with it one learns who else is there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lease: Lease | None = None
        self._turn = asyncio.Lock()

    async def look(self) -> LeaseView:
        """Return all workers of the hub and their partitions. Raises StoreError."""
        provider = self._connection.provider
        async with self._turn:
            if self._lease is not None:
                try:
                    return await provider.renew(self._lease)
                except LeaseLostError:  # not used for an hour, it was forgotten
                    self._lease = None
            self._lease = await provider.lease("dashboard", b"", worker=False)
            return await provider.renew(self._lease)


def workers_shown(view: LeaseView, partitions: int) -> dict[str, Any]:
    """Return the workers of a hub as JSON."""
    return {
        "partitions": partitions,
        "unowned": sorted(view.unowned),
        "clock_correction_seconds": view.clock.correction / 1e6,
        "workers": [_worker_shown(other, view.now) for other in sorted(view.others, key=lambda other: other.name)],
    }


def _worker_shown(other: OtherLease, now: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": other.name,
        "lease_id": other.lease_id,
        "is_live": other.is_live,
        "partitions": sorted(other.partitions),
        "lease_ends_in_seconds": (other.expires_at - now) / 1e6 if other.expires_at else None,
    }
    try:
        announced = Announcement.decode(other.announcement)
    except StoreError as error:
        return {**shown, "unreadable": str(error)}
    served = [
        {"kind": "activity" if kind == ACTIVITY else kind, "name": name, "versions": sorted(versions)}
        for kind, names in announced.served.items()
        for name, versions in sorted(names.items())
    ]
    return {**shown, "orchestrations": announced.orchestrations, "queues": [*announced.queues], "serves": served}


async def _look(site: Site) -> dict[str, Any]:
    connection = await site.connection()
    return workers_shown(await connection.feature(LookAround).look(), connection.partitions)


async def list_workers(call: Call) -> Response:
    """The workers of the hub, what they run, and which partitions they own."""
    return answer(await call.site.shared("workers", lambda: _look(call.site)).get())


# ---- the overview


@dataclasses.dataclass(frozen=True, slots=True)
class Overview:
    """What is worked out once for all who look."""

    now: int
    counts: Mapping[str, int]
    last_hour: Mapping[str, int]
    last_minute: int
    waiting: Sequence[InstanceRow]
    stalled: Sequence[InstanceRow]
    failed: Sequence[InstanceRow]
    workers: Mapping[str, Any]


async def overview_of(site: Site) -> Overview:
    """Return how the hub stands, at most about a second old."""
    found: Overview = await site.shared("overview", lambda: _made(site)).get()
    return found


async def _made(site: Site) -> Overview:
    connection = await site.connection()
    provider = connection.provider
    now = await connection.clock.now(provider)

    async def count(*statuses: Status, after: int | None = None) -> int:
        return await provider.count(InstanceFilter(status=statuses, created_after=after))

    async def listed(*statuses: Status, newest_first: bool) -> Sequence[InstanceRow]:
        wanted = InstanceFilter(status=statuses)
        return (await provider.list_instances(wanted, limit=SHOWN_MAX, newest_first=newest_first)).rows

    return Overview(
        now,
        {status.name: await count(status) for status in Status},
        {status.name: await count(status, after=now - HOUR_US) for status in Status},
        await count(*Status, after=now - MINUTE_US),
        await listed(*UNFINISHED, newest_first=False),
        await listed(Status.STALLED, newest_first=True),
        await listed(Status.FAILED, newest_first=True),
        await site.shared("workers", lambda: _look(site)).get(),
    )


def overview_shown(overview: Overview, connection: Connection, view: View) -> dict[str, Any]:
    """Return an overview as JSON, as much of it as somebody sees."""
    workers = overview.workers

    def rows(found: Sequence[InstanceRow]) -> list[dict[str, Any]]:
        return [row_shown(row, connection, view) for row in found]

    return {
        "now": iso(utc_datetime(overview.now)),
        "counts": overview.counts,
        "started_last_hour": overview.last_hour,
        "started_last_minute": overview.last_minute,
        "oldest_unfinished": rows(overview.waiting),
        "stalled": rows(overview.stalled),
        "failed": rows(overview.failed),
        "workers_live": sum(worker["is_live"] for worker in workers["workers"]),
        "workers_dead": sum(not worker["is_live"] for worker in workers["workers"]),
        "partitions": workers["partitions"],
        "partitions_unowned": len(workers["unowned"]),
    }


async def get_overview(call: Call) -> Response:
    """Counts by status, what was started lately, the oldest unfinished, the latest failures and stalls, the workers."""
    overview = await overview_of(call.site)
    return answer(overview_shown(overview, await call.connection(), call.view()))


# ---- who did what


class AuditPage(Fields):
    """A page of the notes, the newest first; `page` is the `next_page` of the one before."""

    limit: int = Field(default=100, ge=1, le=500)
    page: str = ""


async def list_audit(call: Call) -> Response:
    """Who did what through this interface, and when; the newest first."""
    asked = call.query(AuditPage)
    found, following = await (await call.site.audit()).read(asked.limit, asked.page)
    return answer({"entries": found, "next_page": following})
