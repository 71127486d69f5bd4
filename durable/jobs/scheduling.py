"""Starting job trees: what `client.schedule`, `client.schedule_many` and `client.get_job` do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from durable.client.starting import USES_OTHER
from durable.client.times import due_time
from durable.events import InstanceKey
from durable.ids import check_instance_id
from durable.jobs.handle import JobHandle
from durable.jobs.model import Job
from durable.jobs.packing import Packer, cut
from durable.jobs.wire import PART, TREE, JobSpec
from durable.model import ReusePolicy

if TYPE_CHECKING:
    from durable.client import Client


async def schedule(
    client: Client,
    job: Job,
    *,
    at: datetime | timedelta | None = None,
    instance_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    reuse_policy: ReusePolicy = ReusePolicy.REJECT,
) -> JobHandle:
    """Start one tree; see `Client.schedule`."""
    specs = Packer(client.connection.app).flat(_checked(job), at_us=await _at_us(client, at))
    return await _start(client, specs, instance_id, tags, reuse_policy)


async def schedule_many(
    client: Client,
    jobs: Iterable[Job],
    *,
    at: datetime | timedelta | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[JobHandle]:
    """Start many trees; see `Client.schedule_many`."""
    at_us = await _at_us(client, at)
    packer = Packer(client.connection.app)
    trees = [packer.flat(_checked(job), at_us=at_us) for job in jobs]  # before the first of them is stored
    return list(await asyncio.gather(*(_start(client, specs, None, tags, ReusePolicy.REJECT) for specs in trees)))


def get_job(client: Client, instance_id: str) -> JobHandle:
    """Return a handle; see `Client.get_job`."""
    return JobHandle(client.connection, InstanceKey(check_instance_id(instance_id)))


async def _start(
    client: Client,
    specs: list[JobSpec],
    instance_id: str | None,
    tags: Mapping[str, str] | None,
    reuse_policy: ReusePolicy,
) -> JobHandle:
    tree, parts = cut(specs)
    if parts and reuse_policy in USES_OTHER:
        raise ValueError(
            f"a tree of {len(specs)} jobs is too large for {reuse_policy}: what does not fit into one value would be sent to "
            "the instance that is in the way; choose another reuse_policy"
        )
    handle = await client.start(
        TREE,
        tree.to_plain(),
        instance_id=instance_id,
        tags=tags,
        reuse_policy=reuse_policy,
        events=[(PART, part) for part in parts],
    )
    return JobHandle(client.connection, InstanceKey(handle.instance_id), handle.run_id, is_fresh=True)


async def _at_us(client: Client, at: datetime | timedelta | None) -> int | None:
    if at is None:
        return None
    return due_time(at, await client.connection.clock.now(client.connection.provider))


def _checked(job: object) -> Job:
    if not isinstance(job, Job):
        raise TypeError(f"a Job is scheduled, not {job!r:.200}: write Job(function, request)")
    return job
