"""A worker process whose spans go to a file, a line of JSON each: `python -m tests.otel.program STORE SPANS GATE`.

The activity `passes` waits until the file GATE is there, so that the process can be killed in the middle of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from durable import App, OrchestrationContext, RetryPolicy, Worker, when_any
from durable.otel import Telemetry

app = App()
gates: list[Path] = []


@app.activity
async def passes(number: int) -> int:
    """Return the number when the gate is open."""
    while not gates[0].exists():
        await asyncio.sleep(0.01)
    return number


@app.activity
def fails_once(marker: str) -> str:
    """Fail the first time."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    raise ValueError("the first time")


@app.orchestrator
async def child(ctx: OrchestrationContext, number: int) -> int:
    return await ctx.call_activity(passes, number)


@app.orchestrator
async def flow(ctx: OrchestrationContext, marker: str) -> int:
    policy = RetryPolicy(timedelta(milliseconds=1), 3)
    await ctx.call_activity(fails_once, marker, retry_policy=policy)
    late = ctx.create_timer(timedelta(hours=1))
    found = ctx.call_sub_orchestrator(child, 5)
    await when_any([late, found])
    late.cancel()
    ctx.start_orchestration(child, 6, instance_id="apart")
    return found.result()


EXPECTED = sorted(
    [
        ("start flow", ""),
        ("orchestration flow", "start flow"),
        ("turn flow", "orchestration flow"),  # calls the activity
        ("activity fails_once", "orchestration flow"),
        ("run fails_once", "activity fails_once"),
        ("turn flow", "orchestration flow"),  # it has failed
        ("timer", "orchestration flow"),
        ("turn flow", "orchestration flow"),  # it is time for the next attempt
        ("activity fails_once", "orchestration flow"),
        ("run fails_once", "activity fails_once"),
        ("turn flow", "orchestration flow"),  # timer and child
        ("timer", "orchestration flow"),
        ("child child", "orchestration flow"),
        ("orchestration child", "child child"),
        ("turn child", "orchestration child"),
        ("activity passes", "orchestration child"),
        ("run passes", "activity passes"),
        ("turn child", "orchestration child"),
        ("turn flow", "orchestration flow"),  # the end
        ("start child", "orchestration flow"),
        ("orchestration child", ""),  # linked with its start, in a trace of its own
        ("turn child", "orchestration child"),
        ("activity passes", "orchestration child"),
        ("run passes", "activity passes"),
        ("turn child", "orchestration child"),
    ]
)
"""The spans of `flow`, each with that above it, whoever has made them and however often anything was replayed."""


class FileExporter(SpanExporter):
    """Writes each span as it ends: what is written outlives the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            assert span.context is not None
            told = {
                "name": span.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": 0 if span.parent is None else span.parent.span_id,
                "links": [link.context.span_id for link in span.links],
                "start": span.start_time,
                "end": span.end_time,
                "status": span.status.status_code.name,
                "attributes": dict(span.attributes or {}),
            }
            os.write(self._file, json.dumps(told).encode() + b"\n")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        os.close(self._file)


def provider_to(path: str) -> TracerProvider:
    """Return a provider whose spans go to a file."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(path)))
    return provider


async def main() -> None:
    store, spans, gate = sys.argv[1:]
    gates.append(Path(gate))
    worker = Worker(app, store, middleware=[Telemetry(tracer_provider=provider_to(spans))])
    print("ready", flush=True)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
