"""Looking at instances: listings, one of them, its history, timeline and relatives."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field
from starlette.responses import Response

from durable.client.connection import Connection
from durable.client.filters import Selection, selection
from durable.client.handle import Handle
from durable.client.states import state_of
from durable.errors import StoreError, StoreUnavailableError
from durable.events import InstanceKey
from durable.history import History, utc_datetime
from durable.provider import InstanceFilter, InstanceRow, Page
from durable.timeline import Row, RowKind, Timeline, timeline
from durable.web.calls import Call, Fields, Refusal, answer, segment
from durable.web.shown import View, iso, plain

PAGE_MAX: Final = 500
EVENTS_PAGE_MAX: Final = 2000
WAIT_SECONDS_MAX: Final = 30.0
RETRY_AFTER_SECONDS: Final = 1
RELATIVES_MAX: Final = 500
"""Instances in one tree, and children of one of them: who wants more asks for the children of one."""

ANCESTORS_MAX: Final = 100

StatusName = Literal["PENDING", "RUNNING", "SUSPENDED", "STALLED", "COMPLETED", "FAILED", "CANCELLED", "TERMINATED"]
Kind = Literal["o", "e", "s"]


class Filters(Fields):
    """Which instances are meant; all that is given must hold. `tag`: NAME=VALUE, several times."""

    status: list[StatusName] = Field(default=[])
    name: str | None = None
    prefix: str | None = None
    tag: list[str] = Field(default=[])
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    parent: str | None = None

    def selected(self) -> Selection:
        """Return the filter of the store. Raises Refusal for a tag that is none, ValueError."""
        tags: dict[str, str] = {}
        for tag in self.tag:
            name, mark, value = tag.partition("=")
            if not mark:
                raise Refusal(400, "bad_query", f"a tag is given as NAME=VALUE, not {tag:.60}")
            if tags.setdefault(name, value) != value:
                raise Refusal(400, "bad_query", f"tag {name:.60} cannot have two values")
        return selection(
            status=None if not self.status else [*self.status],  # type: ignore[list-item]  # checked by its names
            name=self.name or None,
            prefix=self.prefix or None,
            tags=tags,
            created_after=self.created_after,
            created_before=self.created_before,
            parent=self.parent or None,
        )


class Listing(Filters):
    """A page of a listing."""

    kind: Kind = "o"
    limit: int = Field(default=50, ge=1, le=PAGE_MAX)
    page: str | None = None
    order: Literal["newest", "oldest"] = "newest"


class OfKind(Fields):
    """What kind of instance the id is of: "o" an orchestration or job tree, "e" an entity, "s" a schedule."""

    kind: Kind = "o"
    full: bool = False


class Waiting(Fields):
    """How long an answer may wait for the end, in seconds."""

    wait: float = Field(default=0.0, ge=0, le=WAIT_SECONDS_MAX)


class Events(OfKind):
    """A part of a history: `limit` events from the sequence `first` on. `full`: values of any length."""

    generation: int | None = None
    first: int = Field(default=0, ge=0)
    limit: int = Field(default=500, ge=1, le=EVENTS_PAGE_MAX)


class Generation(OfKind):
    """Which generation: the current one unless it is named."""

    generation: int | None = None


# ---- listings


async def list_instances(call: Call) -> Response:
    """A page of instances, by the time of their creation, without their values."""
    asked = call.query(Listing)
    connection = await call.connection()
    selected = asked.selected()
    wanted = dataclasses.replace(selected.wanted, kind=asked.kind)
    if wanted.parent is not None:
        wanted = dataclasses.replace(wanted, kind=None)
    page = await page_of(connection, wanted, asked.limit, asked.page, newest_first=asked.order == "newest")
    view = call.view()
    rows = [row_shown(row, connection, view) for row in page.rows]
    return answer({"instances": rows, "next_page": write_page(page.next_page)})


def row_shown(row: InstanceRow, connection: Connection, view: View) -> dict[str, Any]:
    """Return a row as a listing shows it."""
    shown = view.state(state_of(row, connection.sealer, payloads=False), values=False)
    if shown["failure_details"] is not None:
        shown["failure_details"].update(stack_trace="", inner=None)
    return {**shown, "kind": row.key.kind, "segment": segment(row.key.id)}


async def page_of(
    connection: Connection, wanted: InstanceFilter, limit: int, page: str | None, *, newest_first: bool = True
) -> Page:
    """Return a page of a listing. Raises Refusal for a `page` that no answer has given."""
    try:
        after = None if page is None else base64.b64decode(page, altchars=b"-_", validate=True)
        return await connection.provider.list_instances(wanted, limit=limit, page=after, newest_first=newest_first)
    except StoreUnavailableError:
        raise
    except (binascii.Error, ValueError, StoreError) as error:
        if page is None:
            raise
        raise Refusal(400, "bad_page", "page is none that this interface has given") from error


def write_page(page: bytes | None) -> str | None:
    """Return it as a parameter."""
    return None if page is None else base64.urlsafe_b64encode(page).decode()


async def count_instances(call: Call) -> Response:
    """How many instances match."""
    asked = call.query(Filters)
    connection = await call.connection()
    return answer({"count": await connection.provider.count(asked.selected().wanted)})


# ---- one instance


def handle_of(connection: Connection, key: InstanceKey) -> Handle[Any]:
    """Return a handle to whichever run of an instance is current, of any kind."""
    return Handle(connection, key)


async def get_instance(call: Call) -> Response:
    """An instance as it stands, with its values and the activities that are open."""
    asked = call.query(OfKind)
    connection, key = await call.connection(), call.key(asked.kind)
    state = await handle_of(connection, key).state()
    view = call.view(None) if asked.full else call.view(64 * 1024)
    shown = view.state(state)
    (row,) = await connection.provider.load([(key, None)])
    if row is not None:
        shown["due_at"] = None if row.due_at is None else iso(utc_datetime(row.due_at))
        shown["parent_kind"] = None if row.parent is None else row.parent.kind
        shown["parent_segment"] = None if row.parent is None else segment(row.parent.id)
        shown["records"] = row.records
    return answer({**shown, "kind": key.kind, "segment": segment(key.id), "links": links(call, key.id)})


def links(call: Call, instance_id: str) -> dict[str, str]:
    """Return where an instance is asked about and steered, by the names that Durable Functions gives them."""
    part = segment(instance_id)
    actions = {"sendEvent": "raise", "cancel": "cancel", "terminate": "terminate", "suspend": "suspend"}
    actions |= {"resume": "resume", "rewind": "rewind", "restart": "restart"}
    return {
        "statusQueryGetUri": call.path("instances", part, "status"),
        "purgeHistoryDeleteUri": call.path("instances", part),
        **{f"{name}PostUri": call.path("instances", part, action) for name, action in actions.items()},
    }


async def get_status(call: Call) -> Response:
    """202 with Location and Retry-After while it goes on, 200 once it has ended; `wait` seconds at most for the end."""
    asked = call.query(Waiting)
    connection, key = await call.connection(), call.key()
    handle = handle_of(connection, key)
    if asked.wait:
        try:
            await handle.wait(asked.wait)
        except TimeoutError:
            pass  # the answer says that it goes on
    state = await handle.state()
    shown = call.view(None).state(state)
    shown.update(runtimeStatus=state.status.name.capitalize(), links=links(call, key.id))
    if state.status.is_finished:
        return answer(shown)
    return answer(shown, 202, accepted_headers(call, key.id))


def accepted_headers(call: Call, instance_id: str) -> dict[str, str]:
    """Return the headers of the asynchronous pattern: where to ask, and when."""
    return {
        "Location": call.path("instances", segment(instance_id), "status"),
        "Retry-After": str(RETRY_AFTER_SECONDS),
    }


async def get_dropped(call: Call) -> Response:
    """What was refused, came too late or could not be delivered, with reasons."""
    asked = call.query(OfKind)
    found = await handle_of(await call.connection(), call.key(asked.kind)).dropped()
    view = call.view()
    return answer({"dropped": [view.dropped(item) for item in found[-PAGE_MAX:]], "count": len(found)})


# ---- its history


async def get_history(call: Call) -> Response:
    """A part of a generation's history, verified. Long values are cut unless `full` asks for them."""
    asked = call.query(Events)
    history = await read_history_of(call, asked.kind, asked.generation)
    view = call.view(None) if asked.full else call.view(512)
    events = history[asked.first : asked.first + asked.limit]
    return answer(
        {
            "instance_id": history.instance_id,
            "run_id": history.run_id,
            "generation": history.generation,
            "length": len(history),
            "events": [view.event(event) for event in events],
        }
    )


async def read_history_of(call: Call, kind: str, generation: int | None) -> History:
    """Return a history. That of a generation that has ended, or of a run that has, is remembered for a moment."""
    connection, key = await call.connection(), call.key(kind)
    kept = connection.feature(Histories)
    return await kept.get(key, generation)


class Histories:
    """The histories looked at last: a page shows one in many parts, and none changes without its row."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: dict[tuple[InstanceKey, int | None], tuple[tuple[object, ...], History]] = {}

    async def get(self, key: InstanceKey, generation: int | None) -> History:
        """Return a history as it is now. Raises what `Handle.history` raises."""
        row = await self._connection.load(key, None)
        mark = (row.run_id, row.generation, row.records, row.chain)
        kept = self._kept.pop((key, generation), None)
        history = kept[1] if kept is not None and kept[0] == mark else None
        if history is None:
            history = await Handle[Any](self._connection, key).history(generation=generation)
        self._kept[key, generation] = mark, history
        while len(self._kept) > HISTORIES_KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        return history


HISTORIES_KEPT_MAX: Final = 4
"""One may be as long as a million events."""


async def export_history(call: Call) -> Response:
    """A history as a file, lossless, for `durable.History.load` and `durable replay`."""
    asked = call.query(Generation)
    if not call.view().payloads:
        raise Refusal(403, "payloads_hidden", "a history holds values, which this role does not see")
    history = await read_history_of(call, asked.kind, asked.generation)
    headers = {"Content-Disposition": 'attachment; filename="history.durable"'}
    return Response(history.export(), 200, headers, media_type="application/octet-stream")


async def get_timeline(call: Call) -> Response:
    """What an instance did and waited for, as rows with a beginning and an end, to be drawn to scale."""
    asked = call.query(Generation)
    drawn = timeline(await read_history_of(call, asked.kind, asked.generation))
    return answer(timeline_shown(drawn, call.view()))


def timeline_shown(drawn: Timeline, view: View) -> dict[str, Any]:
    """Return a timeline as JSON."""
    return {
        "instance_id": drawn.instance_id,
        "run_id": drawn.run_id,
        "generation": drawn.generation,
        "name": drawn.name,
        "started_at": iso(drawn.started_at),
        "ended_at": iso(drawn.ended_at),
        "outcome": drawn.outcome,
        "rows": [_row_shown(row, view) for row in drawn.rows],
    }


def _row_shown(row: Row, view: View) -> dict[str, Any]:
    shown = {field: plain(getattr(row, field)) for field in ("name", "sequence", "task_id", "target", "line")}
    times = {field: iso(getattr(row, field)) for field in ("started_at", "ended_at", "due_at", "limit_at")}
    attempts = [
        {
            "number": attempt.number,
            "started_at": iso(attempt.started_at),
            "ended_at": iso(attempt.ended_at),
            "status": attempt.status.value,
            "error": view.failure(attempt.error) if len(row.attempts) > 1 else None,
        }
        for attempt in row.attempts
    ]
    if row.kind is RowKind.SUSPENSION:
        shown["name"] = view.text(row.name)  # why it was suspended, in somebody's words
    return {
        "kind": row.kind.value,
        "status": row.status.value,
        **shown,
        **times,
        "attempts": attempts,
        "error": view.failure(row.error),
    }


# ---- its relatives


async def get_tree(call: Call) -> Response:
    """The ancestors of an instance, the topmost first, and all below it, as a flat list in which parents come first."""
    asked = call.query(OfKind)
    connection, key = await call.connection(), call.key(asked.kind)
    row = await connection.load(key, None)
    view = call.view()
    ancestors: list[InstanceRow] = []
    above, seen = row.parent, {key}
    while above is not None and above not in seen and len(ancestors) < ANCESTORS_MAX:
        seen.add(above)
        (parent,) = await connection.provider.load([(above, None)])
        if parent is None:
            break
        ancestors.append(parent)
        above = parent.parent
    found, is_cut = await _descendants(connection, row)
    return answer(
        {
            "ancestors": [row_shown(one, connection, view) for one in reversed(ancestors)],
            "nodes": [
                {**row_shown(one, connection, view), "depth": depth, "parent_index": parent}
                for one, depth, parent in found
            ],
            "is_cut": is_cut,
        }
    )


async def _descendants(connection: Connection, row: InstanceRow) -> tuple[Sequence[tuple[InstanceRow, int, int]], bool]:
    """Return an instance and all below it, with their depths and the indexes of their parents; and whether there are more."""
    found: list[tuple[InstanceRow, int, int]] = [(row, 0, -1)]
    seen = {row.key}
    is_cut = False
    at = 0
    while at < len(found):
        parent, depth, _ = found[at]
        room = RELATIVES_MAX - len(found)
        wanted = InstanceFilter(kind=None, parent=parent.key)
        page = await connection.provider.list_instances(wanted, limit=max(room, 1), newest_first=False)
        if room <= 0:
            is_cut = is_cut or bool(page.rows)
            break
        for child in page.rows:
            if child.key not in seen and child.parent_run_id in (None, parent.run_id):
                seen.add(child.key)
                found.append((child, depth + 1, at))
        is_cut = is_cut or page.next_page is not None
        at += 1
    return found, is_cut
