"""Steering: starting, raising events, cancelling and so on, for one instance or for many. Each leaves a note of who did it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field
from starlette.responses import Response

from durable.client import Client
from durable.client.bulk import FINISHED
from durable.client.handle import Handle
from durable.errors import HandlerFailedError, InvalidInputError, UpdateRejectedError
from durable.model import OrchestrationStatus, ReusePolicy
from durable.web.calls import Call, Fields, Refusal, answer, segment, unsegment
from durable.web.instances import Filters, accepted_headers, handle_of, links

ReuseName = Literal["REJECT", "USE_EXISTING", "USE_RUNNING", "REPLACE_FINISHED", "TERMINATE_AND_REPLACE"]


class NamedEvent(Fields):
    """An external event."""

    name: str
    data: Any = None


class Asked(Fields):
    """What an orchestration has registered, by name, and its argument."""

    name: str
    arg: Any = None


class Updated(Asked):
    """An update; its answer is waited for so many seconds."""

    timeout: float = Field(default=30.0, ge=0, le=60)


class Start(Fields):
    """How an orchestration is started. `at`: when, or `delay_seconds` from now."""

    input: Any = None
    instance_id: str | None = None
    at: AwareDatetime | None = None
    delay_seconds: float | None = Field(default=None, ge=0)
    version: str | None = None
    tags: dict[str, str] = Field(default={})
    reuse_policy: ReuseName = "REJECT"
    events: list[NamedEvent] = Field(default=[])


class Reason(Fields):
    """Why: for the history, and for the note of who did it."""

    reason: str = ""


class Terminate(Reason):
    """`recursive`: its unfinished children end, too."""

    recursive: bool = True


class Restart(Fields):
    """Under `new_id`, or else under its own id once it has ended."""

    new_id: str | None = None
    version: str | None = None


class Fork(Fields):
    """`at`: the sequence of the first event that is not taken over."""

    at: int = Field(ge=0)
    new_id: str | None = None


class Purge(Fields):
    """`recursive`: with its children and theirs."""

    recursive: bool = True


class Bulk(Fields):
    """The same for all that match. Without any filter nothing is meant; `dry_run` only counts."""

    filters: Filters = Field(default_factory=Filters)
    dry_run: bool = False
    reason: str = ""


@dataclasses.dataclass(slots=True)
class Outcome:
    """What the note says in the end."""

    text: str = "done"


@contextlib.asynccontextmanager
async def noted(call: Call, action: str, target: str, details: Mapping[str, Any]) -> AsyncIterator[Outcome]:
    """Note that an action was asked for, before it is done, and what became of it."""
    audit, outcome = await call.site.audit(), Outcome()
    way = "" if call.identity is None else call.identity.way
    given = {name: value for name, value in details.items() if value not in (None, "", {}, [])}
    key, entry = await audit.begin(call.principal.name, call.principal.role.name, way, action, target, given)
    try:
        yield outcome
    except Exception as error:
        await audit.end(key, entry, f"refused: {type(error).__name__}: {error}")
        raise
    await audit.end(key, entry, outcome.text)


# ---- starting


async def start(call: Call) -> Response:
    """Start an orchestration: 202, with Location and Retry-After for asking how it goes."""
    asked = await call.body(Start)
    name = unsegment(call.request.path_params["name"])
    if "id" in call.request.path_params:
        if asked.instance_id is not None:
            raise InvalidInputError("the instance id is given twice: in the path and in the body")
        asked = asked.model_copy(update={"instance_id": call.id()})
    if asked.at is not None and asked.delay_seconds is not None:
        raise InvalidInputError("when to start is given twice: at and delay_seconds")
    at: datetime | timedelta | None = asked.at
    if asked.delay_seconds is not None:
        at = timedelta(seconds=asked.delay_seconds)
    client = await call.client()
    details = asked.model_dump(mode="json", include={"instance_id", "at", "delay_seconds", "version", "reuse_policy"})
    async with noted(call, "start", name, details) as outcome:
        handle = await client.start(
            name,
            asked.input,
            instance_id=asked.instance_id,
            at=at,
            version=asked.version,
            tags=asked.tags,
            reuse_policy=ReusePolicy[asked.reuse_policy],
            events=[(event.name, event.data) for event in asked.events],
        )
        outcome.text = f"instance {handle.instance_id}"
    return _accepted(call, handle)


def _accepted(call: Call, handle: Handle[Any]) -> Response:
    instance_id = handle.instance_id
    shown = {
        "id": instance_id,
        "instance_id": instance_id,
        "segment": segment(instance_id),
        "run_id": handle.run_id,
        **links(call, instance_id),
    }
    return answer(shown, 202, accepted_headers(call, instance_id))


# ---- one instance


async def raise_event(call: Call) -> Response:
    """Send an external event to an unfinished instance; it is durable when this is answered."""
    asked = await call.body(NamedEvent)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "raise", handle.instance_id, {"event": asked.name}):
        await handle.raise_event(asked.name, asked.data)
    return answer({"raised": asked.name}, 202)


async def query(call: Call) -> Response:
    """Ask an orchestration what it has registered a query for. It leaves no trace; only who sees values gets an answer."""
    asked = await call.body(Asked)
    if not call.view().payloads:
        raise Refusal(403, "payloads_hidden", "an answer holds values, which this role does not see")
    handle = handle_of(await call.connection(), call.key())
    return answer({"answer": call.view(None).value(await handle.query(asked.name, asked.arg))})


async def update(call: Call) -> Response:
    """Have an update carried out that the orchestration has registered, once; its result, or why it was refused."""
    asked = await call.body(Updated)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "update", handle.instance_id, {"update": asked.name}):
        try:
            result = await handle.update(asked.name, asked.arg, timeout=asked.timeout)
        except (UpdateRejectedError, HandlerFailedError) as error:
            if call.view().payloads:
                raise
            raise Refusal(409, "refused", "it was refused, or has failed; why is hidden from this role") from error
    return answer({"result": call.view(None).value(result)})


async def terminate(call: Call) -> Response:
    """End an instance by force, without running its code."""
    asked = await call.body(Terminate)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "terminate", handle.instance_id, asked.model_dump()):
        await handle.terminate(asked.reason, recursive=asked.recursive)
    return answer({"asked": "terminate"}, 202, accepted_headers(call, handle.instance_id))


def steering(action: str, what: str) -> Callable[[Call], Awaitable[Response]]:
    """Return the operation that steers one instance by a call that takes nothing but a reason."""

    async def steer(call: Call) -> Response:
        asked = await call.body(Reason)
        handle = handle_of(await call.connection(), call.key())
        async with noted(call, action, handle.instance_id, asked.model_dump()):
            await getattr(handle, action)(asked.reason)
        return answer({"asked": action}, 202, accepted_headers(call, handle.instance_id))

    steer.__doc__ = what
    return steer


async def restart(call: Call) -> Response:
    """Start an orchestration once more with the same input and tags."""
    asked = await call.body(Restart)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "restart", handle.instance_id, asked.model_dump()) as outcome:
        again = await handle.restart(new_id=asked.new_id, version=asked.version)
        outcome.text = f"instance {again.instance_id}"
    return _accepted(call, again)


async def fork(call: Call) -> Response:
    """Start a new instance that has the first events of this one's history behind it."""
    asked = await call.body(Fork)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "fork", handle.instance_id, asked.model_dump()) as outcome:
        forked = await handle.fork(at=asked.at, new_id=asked.new_id)
        outcome.text = f"instance {forked.instance_id}"
    return _accepted(call, forked)


async def purge(call: Call) -> Response:
    """Remove a finished instance with its history."""
    asked = call.query(Purge)
    handle = handle_of(await call.connection(), call.key())
    async with noted(call, "purge", handle.instance_id, asked.model_dump()) as outcome:
        count = await handle.purge(recursive=asked.recursive)
        outcome.text = f"{count} removed"
    return answer({"count": count})


# ---- many instances


def bulk(action: str, what: str) -> Callable[[Call], Awaitable[Response]]:
    """Return the operation that does something with all instances that match."""

    async def act(call: Call) -> Response:
        asked = await call.body(Bulk)
        filters = _filters(asked.filters)
        client = await call.client()
        if asked.dry_run:
            return answer({"count": await _act(client, action, filters, asked.reason, dry_run=True), "dry_run": True})
        told = asked.filters.model_dump(mode="json", exclude_defaults=True)
        async with noted(call, f"bulk {action}", "", {**told, "reason": asked.reason}) as outcome:
            count = await _act(client, action, filters, asked.reason, dry_run=False)
            outcome.text = f"{count} instances"
        return answer({"count": count, "dry_run": False})

    act.__doc__ = what
    return act


def _filters(given: Filters) -> dict[str, Any]:
    wanted = given.selected().wanted
    values = {
        "status": [OrchestrationStatus[status.name] for status in wanted.status],
        "name": wanted.name,
        "prefix": wanted.prefix,
        "tags": dict(wanted.tags),
        "created_after": given.created_after,
        "created_before": given.created_before,
        "parent": given.parent,
    }
    return {name: value for name, value in values.items() if value}


async def _act(client: Client, action: str, filters: dict[str, Any], reason: str, *, dry_run: bool) -> int:
    if action != "purge":
        count: int = await getattr(client, action)(reason=reason, dry_run=dry_run, **filters)
        return count
    if not dry_run:
        return await client.purge(**filters)
    if not filters:
        raise InvalidInputError("purge needs a filter: to mean every instance, say so by their statuses")
    finished = [OrchestrationStatus[status.name] for status in FINISHED]
    meant = [status for status in filters.get("status", finished) if status in finished]
    return 0 if not meant else await client.count(**{**filters, "status": meant})


STEERING: Final[Mapping[str, str]] = {
    "cancel": "Ask an orchestration to cancel.",
    "suspend": "Hold an instance: what arrives waits for the resume.",
    "resume": "Let a suspended instance go on.",
    "rewind": "Let what has failed run again from the point of failure.",
}

IN_BULK: Final[Mapping[str, str]] = {
    "cancel": "Ask all unfinished instances that match to cancel.",
    "terminate": "End all unfinished instances that match by force.",
    "suspend": "Hold all unfinished instances that match.",
    "resume": "Let all suspended instances that match go on.",
    "rewind": "Rewind all failed instances that match.",
    "purge": "Remove all finished instances that match.",
}
