"""What a schedule starts: a function, a name or a job tree, and its input, as they are given and as they travel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from durable import payloads
from durable.app import App
from durable.errors import InvalidInputError, LimitExceededError
from durable.history import plain_value
from durable.jobs.model import Job
from durable.jobs.packing import Packer, bounded, cut
from durable.jobs.wire import Kind, TreeInput
from durable.payloads import Sealer
from durable.schedules.wire import TargetKind, TargetSpec


def target_spec(app: App | None, target: Callable[..., Any] | str | Job, value: Any) -> TargetSpec:
    """Return what a schedule starts. A function that is an activity becomes a tree of one job.

    Raises UnknownNameError for a function that was never registered, InvalidInputError for an input that does not fit, or
    that is given beside a job tree, and LimitExceededError for a tree that does not fit into one value.
    """
    packer = Packer(app)
    if not isinstance(target, Job):
        kind, plan = packer.plan(target)
        if kind is not Kind.ACTIVITY:
            payload = bounded(plan.encode_input(value), plan.name)
            kinds = {Kind.ORCHESTRATOR: TargetKind.ORCHESTRATOR, Kind.NAME: TargetKind.NAME}
            return TargetSpec(kinds[kind], plan.name, plan.version if kind is Kind.ORCHESTRATOR else None, payload)
        target = Job(target, value)
    elif value is not None:
        raise InvalidInputError("input= is for a function; a job tree brings its requests with it")
    specs = packer.flat(target)
    tree, others = cut(specs)
    if others:
        raise LimitExceededError(
            f"a schedule starts a tree of what fits into one value, and this one of {len(specs)} jobs does not: let its root "
            "add the others with ctx.schedule_child"
        )
    return TargetSpec(TargetKind.JOBS, specs[0].name, None, payloads.encode(tree.to_plain()))


def input_of(target: TargetSpec, sealer: Sealer, schedule_id: str) -> Any:
    """Return the input that people are shown: of a job tree the request of its root."""
    payload = target.payload
    if target.kind is TargetKind.JOBS and payload is not None:
        payload = TreeInput.decode(payloads.decode(payload)).jobs[0].request
    return plain_value(payload, sealer, "input", schedule_id)


def with_input(target: TargetSpec, value: Any) -> TargetSpec:
    """Return the same target with another input, which is not checked against the function: of a tree that of its root."""
    payload = None if value is None else bounded(payloads.encode(value, what="input"), target.name)
    if target.kind is TargetKind.JOBS:
        assert target.payload is not None
        tree = TreeInput.decode(payloads.decode(target.payload))
        root = dataclasses.replace(tree.jobs[0], request=payload)
        payload = payloads.encode(dataclasses.replace(tree, jobs=[root, *tree.jobs[1:]]).to_plain())
    return dataclasses.replace(target, payload=payload)
