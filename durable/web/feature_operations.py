"""Job trees, schedules and entities: looking at them, and what can be done with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from pydantic import AwareDatetime, Field
from starlette.responses import Response

from durable.client.connection import Connection
from durable.entities import EntityId
from durable.entities.ids import KIND as ENTITY
from durable.entities.ids import entity_id_of
from durable.history import plain_value, utc_datetime
from durable.jobs.model import JobNode
from durable.provider import InstanceFilter, InstanceRow
from durable.schedules.model import ScheduleState
from durable.web.actions import Reason, noted
from durable.web.calls import Call, Fields, Refusal, answer, segment, unsegment
from durable.web.instances import PAGE_MAX, accepted_headers, page_of, write_page
from durable.web.shown import View, iso

JOBS_SHOWN_MAX: Final = 5000

# ---- job trees


async def get_job_tree(call: Call) -> Response:
    """A job tree as it stands, as a flat list in which parents come before their children."""
    client = await call.client()
    instance_id = call.id()
    root = await client.get_job(instance_id).tree()
    nodes: list[dict[str, Any]] = []
    for node in root.walk():
        if len(nodes) == JOBS_SHOWN_MAX:
            break
        nodes.append(_job_shown(node, call.view(512)))
    count = sum(1 for _ in root.walk())
    return answer({"instance_id": instance_id, "jobs": nodes, "count": count})


def _job_shown(node: JobNode, view: View) -> dict[str, Any]:
    return {
        "id": node.id,
        "parent_id": node.parent_id,
        "function": node.function,
        "description": node.description,
        "status": node.status.name,
        "run_condition": str(node.run_condition).removeprefix("RunCondition."),
        "priority": node.priority.name,
        "attempts": node.attempts,
        "scheduled_for": iso(node.scheduled_for),
        "started_at": iso(node.started_at),
        "finished_at": iso(node.finished_at),
        "request": view.value(node.request),
        "result": view.value(node.result),
        "error": view.failure(node.error),
        "skip_reason": view.text(node.skip_reason),
    }


async def cancel_job_tree(call: Call) -> Response:
    """Cancel every job of a tree that has not settled; what follows is left to the conditions."""
    asked = await call.body(Reason)
    instance_id = call.id()
    async with noted(call, "cancel jobs", instance_id, asked.model_dump()):
        await (await call.client()).get_job(instance_id).cancel(asked.reason)
    return answer({"asked": "cancel"}, 202, accepted_headers(call, instance_id))


async def cancel_job(call: Call) -> Response:
    """Cancel one job that has not settled."""
    asked = await call.body(Reason)
    instance_id, job_id = call.id(), call.request.path_params["job"]
    async with noted(call, "cancel job", instance_id, {"job": job_id, "reason": asked.reason}):
        await (await call.client()).get_job(instance_id).cancel_job(job_id, asked.reason)
    return answer({"cancelled": job_id})


# ---- schedules


class Times(Fields):
    """How many of the next times."""

    count: int = Field(default=10, ge=1, le=100)


class Note(Fields):
    """Why, for whoever looks at the schedule."""

    note: str = ""


class Period(Fields):
    """From when to when, both included."""

    start: AwareDatetime
    end: AwareDatetime


def _schedule_shown(state: ScheduleState, view: View) -> dict[str, Any]:
    fields = (
        "id",
        "target",
        "cron",
        "timezone",
        "is_paused",
        "running_count",
        "buffered",
        "started",
        "skipped",
        "missed",
    )
    return {
        **{field: getattr(state, field) for field in fields},
        "segment": segment(state.id),
        "input": view.value(state.input),
        "interval_seconds": _seconds(state.interval),
        "at": iso(state.at),
        "overlap": state.overlap.name,
        "catch_up_seconds": _seconds(state.catch_up),
        "jitter_seconds": _seconds(state.jitter),
        "start": iso(state.start),
        "end": iso(state.end),
        "note": view.text(state.note),
        "created_at": iso(state.created_at),
        "next_times": [iso(time) for time in state.next_times],
        "recent": [
            {
                "scheduled_for": iso(start.scheduled_for),
                "started_at": iso(start.started_at),
                "instance_id": start.instance_id,
                "segment": segment(start.instance_id),
            }
            for start in state.recent
        ],
        "running": [*state.running],
        "is_declared": state.is_declared,
        "is_finished": state.is_finished,
        "stall_reason": view.text(state.stall_reason),
        "error": view.failure(state.error),
    }


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


async def list_schedules(call: Call) -> Response:
    """All schedules, by the time of their creation, with their next times."""
    states = await (await call.client()).schedules.list()
    return answer({"schedules": [_schedule_shown(state, call.view()) for state in states]})


async def get_schedule(call: Call) -> Response:
    """A schedule, with its next times, also while it is paused."""
    asked = call.query(Times)
    schedules, schedule_id = (await call.client()).schedules, call.id()
    state = await schedules.get(schedule_id)
    shown = _schedule_shown(state, call.view(None))
    if not state.is_finished:
        shown["next_times"] = [iso(time) for time in await schedules.next_times(schedule_id, asked.count)]
    return answer(shown)


async def pause_schedule(call: Call) -> Response:
    """Let no further time count until the schedule is resumed."""
    asked, schedule_id = await call.body(Note), call.id()
    async with noted(call, "pause schedule", schedule_id, asked.model_dump()):
        await (await call.client()).schedules.pause(schedule_id, asked.note)
    return answer({"asked": "pause"}, 202)


async def resume_schedule(call: Call) -> Response:
    """Let a paused schedule go on, with its next time from now on."""
    asked, schedule_id = await call.body(Note), call.id()
    async with noted(call, "resume schedule", schedule_id, asked.model_dump()):
        await (await call.client()).schedules.resume(schedule_id, asked.note)
    return answer({"asked": "resume"}, 202)


async def trigger_schedule(call: Call) -> Response:
    """Start what a schedule starts now, also while it is paused."""
    await call.body(Fields)
    schedule_id = call.id()
    async with noted(call, "trigger schedule", schedule_id, {}) as outcome:
        handle = await (await call.client()).schedules.trigger(schedule_id)
        outcome.text = f"instance {handle.instance_id}"
    shown = {"instance_id": handle.instance_id, "segment": segment(handle.instance_id)}
    return answer(shown, 202, accepted_headers(call, handle.instance_id))


async def backfill_schedule(call: Call) -> Response:
    """Start what a schedule would have started in a time that is past."""
    asked, schedule_id = await call.body(Period), call.id()
    async with noted(call, "backfill schedule", schedule_id, asked.model_dump(mode="json")) as outcome:
        count = await (await call.client()).schedules.backfill(schedule_id, asked.start, asked.end)
        outcome.text = f"{count} times"
    return answer({"count": count}, 202)


async def delete_schedule(call: Call) -> Response:
    """Delete a schedule; what it has started runs on."""
    schedule_id = call.id()
    async with noted(call, "delete schedule", schedule_id, {}):
        await (await call.client()).schedules.delete(schedule_id)
    return answer({"deleted": schedule_id})


# ---- entities


class Entities(Fields):
    """A page of a listing of entities. `name`: of the class; `prefix`: of the key."""

    name: str | None = None
    prefix: str | None = None
    limit: int = Field(default=50, ge=1, le=PAGE_MAX)
    page: str | None = None


class Signal(Fields):
    """An operation of an entity, for which nobody waits."""

    operation: str
    input: Any = None


def _entity_shown(row: InstanceRow, connection: Connection, view: View) -> dict[str, Any]:
    entity = entity_id_of(row.key)
    return {
        "name": entity.name,
        "key": entity.key,
        "name_segment": segment(entity.name),
        "key_segment": segment(entity.key),
        "instance_id": row.key.id,
        "segment": segment(row.key.id),
        "status": row.status.name,
        "state": view.value(plain_value(row.custom_status, connection.sealer, "state", row.key.id)),
        "created_at": iso(utc_datetime(row.created_at)),
        "last_updated_at": iso(utc_datetime(row.updated_at)),
        "stall_reason": view.text(row.stall_reason),
    }


async def list_entities(call: Call) -> Response:
    """A page of entities, the newest first, with their states."""
    asked = call.query(Entities)
    connection = await call.connection()
    wanted = InstanceFilter(kind=ENTITY, name=asked.name or None, prefix=asked.prefix or None)
    page = await page_of(connection, wanted, asked.limit, asked.page)
    found = [_entity_shown(row, connection, call.view(2048)) for row in page.rows]
    return answer({"entities": found, "next_page": write_page(page.next_page)})


async def signal_entity(call: Call) -> Response:
    """Signal an operation of an entity; it is durable when this is answered."""
    asked = await call.body(Signal)
    parts = call.request.path_params
    entity: EntityId[Any] = EntityId(unsegment(parts["name"]), unsegment(parts["key"]))
    async with noted(call, "signal entity", str(entity), {"operation": asked.operation}):
        await (await call.client()).signal_entity(entity, asked.operation, asked.input)
    return answer({"signaled": asked.operation}, 202)


async def get_entity(call: Call) -> Response:
    """An entity with its state."""
    call.query(Fields)
    parts = call.request.path_params
    entity: EntityId[Any] = EntityId(unsegment(parts["name"]), unsegment(parts["key"]))
    connection = await call.connection()
    (row,) = await connection.provider.load([(entity.instance_key, None)])
    if row is None:
        raise Refusal(404, "not_found", f"there is no entity '{entity}'")
    return answer(_entity_shown(row, connection, call.view(None)))
