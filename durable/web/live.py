"""Live updates as server-sent events: the overview, and one instance. A stream looks at each wake-up, and every second anyway.

A wake-up brings no data along: what a stream sends was read from the store, by the same code as the pages, and only where
it differs from what was sent before. A stream ends when its caller is no longer recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from durable.client.states import state_of
from durable.errors import StoreUnavailableError
from durable.web.calls import Call, Fields
from durable.web.instances import OfKind
from durable.web.overview import overview_of, overview_shown
from durable.web.shown import as_json

GAP_SECONDS: Final = 0.1
"""Changes within this time are one."""

SILENCE_SECONDS: Final = 15.0
"""A stream that has nothing to say says so: proxies close a silent one."""

STAY_SECONDS: Final = 15.0
"""So often it is asked whether the caller may stay, however much there is to say."""

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Look = Callable[[], Awaitable[tuple[str, Any]]]


async def live_overview(call: Call) -> Response:
    """The overview, now and after each change, as events called `overview`."""
    call.query(Fields)

    async def look() -> tuple[str, Any]:
        overview = await overview_of(call.site)
        shown = overview_shown(overview, await call.connection(), call.view())
        return "overview", shown

    return await _stream(call, look, apart_from=("now",))


async def live_instance(call: Call) -> Response:
    """An instance, now and after each turn, as events called `instance`; `gone` once it was purged."""
    asked = call.query(OfKind)
    connection, key, view = await call.connection(), call.key(asked.kind), call.view()
    await connection.load(key, None)

    async def look() -> tuple[str, Any]:
        (row,) = await connection.provider.load([(key, None)])
        if row is None:
            return "gone", {"instance_id": key.id}
        shown = view.state(state_of(row, connection.sealer, payloads=False), values=False)
        return "instance", {**shown, "records": row.records}

    return await _stream(call, look)


async def _stream(call: Call, look: Look, *, apart_from: tuple[str, ...] = ()) -> Response:
    site = call.site
    pulse = await site.pulse()
    first = await look()  # what cannot be looked at is refused as any other call

    async def events() -> AsyncIterator[bytes]:
        async with site.stream() as may_begin:
            if not may_begin:
                yield _event("full", {"message": "there are too many live streams; this page looks by itself"})
                return
            loop = asyncio.get_running_loop()
            kind, shown = first
            sent, said_at, asked_at = None, loop.time(), loop.time()
            while not site.is_ending:
                if loop.time() - asked_at >= STAY_SECONDS:
                    if not await _is_still_let_in(call):
                        return
                    asked_at = loop.time()
                mark = as_json({name: value for name, value in shown.items() if name not in apart_from})
                if (kind, mark) != sent:
                    sent, said_at = (kind, mark), loop.time()
                    yield _event(kind, shown)
                elif loop.time() - said_at >= SILENCE_SECONDS:
                    said_at = loop.time()
                    yield b": still here\n\n"
                await asyncio.sleep(GAP_SECONDS)
                await pulse.wait()
                try:
                    kind, shown = await look()
                except StoreUnavailableError:
                    pass  # what was sent last holds until the store answers again

    return StreamingResponse(events(), 200, HEADERS, media_type="text/event-stream")


def _event(kind: str, data: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + as_json(data) + b"\n\n"


async def _is_still_let_in(call: Call) -> bool:
    """Tell whether who asked would still be known; as long as the store does not answer, they are."""
    try:
        identity = await call.access.identify(call.request, call.site.sessions)
    except StoreUnavailableError:
        return True
    return identity is not None and identity.principal == call.principal
