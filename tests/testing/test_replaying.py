"""Goal: what a store or a file holds of an instance can be replayed against today's code, and a difference is explained.

Method: a worker writes histories, and other apps, which stand for later deployments, replay them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import typing
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from durable import App, DivergenceError, FailureDetails, History, OrchestrationContext, UnknownNameError, Worker
from durable import events as ev
from durable.events import ActivityOptions, HistoryEvent, InstanceKey, TaskRef
from durable.history import Generation
from durable.provider import RecordRow
from durable.records import Record, encode_record, first_checksum, next_checksum
from durable.testing import replay, replay_prefixes

Main = Callable[..., Any]


def app_with(main: Main, version: str | None = None) -> App:
    app = App()
    app.orchestrator(name="main", version=version)(main)
    app.activity(name="ship")(lambda number: number)
    return app


async def ship_two(ctx: OrchestrationContext, number: int) -> int:
    first = await ctx.call_activity("ship", number)
    await ctx.create_timer(timedelta(0))
    return await ctx.call_activity("ship", first + 1)


async def ship_one(ctx: OrchestrationContext, number: int) -> int:
    first = await ctx.call_activity("ship", number)
    await ctx.create_timer(timedelta(0))
    return first


async def ship_two_others(ctx: OrchestrationContext, number: int) -> int:
    first = await ctx.call_activity("ship", number)
    await ctx.create_timer(timedelta(0))
    return await ctx.call_activity("ship", first + 2)


async def ship_two_in_time(ctx: OrchestrationContext, number: int) -> int:
    first = await ctx.call_activity("ship", number, timeout=60)
    await ctx.create_timer(timedelta(0))
    return await ctx.call_activity("ship", first + 1)


async def written(main: Main, store_url: str, input: Any = 1) -> History:
    async with Worker(app_with(main), store_url) as worker:
        handle = await worker.client.start("main", input, instance_id="order 7")
        await handle.wait(timeout=30)
        return await handle.history()


async def test_a_history_replays_against_the_code_that_wrote_it(store_url: str) -> None:
    history = await written(ship_two, store_url)
    app = app_with(ship_two)
    replay(app, history)
    replay(app, History.load(history.export()))
    assert replay_prefixes(app, history) == len(history.records) + 1


async def test_a_removed_step_is_explained(store_url: str) -> None:
    history = await written(ship_two, store_url)
    with pytest.raises(DivergenceError) as raised:
        replay(app_with(ship_one), history)
    text = str(raised.value)
    assert "'order 7'" in text
    assert "recorded:  ActivityScheduled(ship" in text
    assert "testing/test_replaying.py:" in text
    assert "asked now: OrchestrationCompleted" in text


async def test_another_value_is_a_divergence_only_where_it_is_strict(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = await written(ship_two, store_url)
    with pytest.raises(DivergenceError, match="other values"):
        replay(app_with(ship_two_others), history)
    with caplog.at_level(logging.WARNING, "durable"):
        replay(app_with(ship_two_others), history, strict=False)
    assert any("other values" in record.message for record in caplog.records)


async def test_what_is_neither_shape_nor_value_differs_only_by_its_bytes(store_url: str) -> None:
    history = await written(ship_two, store_url)
    replay(app_with(ship_two_in_time), history)
    with pytest.raises(DivergenceError, match=r"from its first 0 records, 'order 7' .* record 0"):
        replay_prefixes(app_with(ship_two_in_time), history)


async def test_an_app_without_the_orchestrator_or_its_version_says_so(store_url: str) -> None:
    history = await written(ship_two, store_url)
    with pytest.raises(UnknownNameError, match="main"):
        replay(App(), history)
    with pytest.raises(UnknownNameError, match="version 2"):
        replay(app_with(ship_two, "2"), history)


async def test_a_history_is_replayed_by_the_version_that_wrote_it(store_url: str) -> None:
    history = await written(ship_two, store_url)
    app = app_with(ship_two)
    app.orchestrator(name="main", version="2")(ship_one)
    replay(app, history)


async def test_the_code_finds_its_history_as_large_as_it_was(store_url: str) -> None:
    async def main(ctx: OrchestrationContext, number: int) -> list[int]:
        await ctx.call_activity("ship", number)
        return await ctx.call_activity("ship", ctx.history_bytes + ctx.history_length)

    history = await written(main, store_url)
    replay(app_with(main), history)
    replay_prefixes(app_with(main), history)


def test_a_generation_that_was_terminated_before_its_first_turn_replays() -> None:
    async def main(ctx: OrchestrationContext, round: int) -> None:
        if round == 0:
            ctx.continue_as_new(1)
        await ctx.call_activity("ship", round)

    key, started = InstanceKey("a"), ev.OrchestrationStarted("main", "0", b"\x01", "seed", "")
    records = [Record(5, [started], is_opening=True), Record(6, [ev.OrchestrationTerminated("enough")])]
    history = made(records, key, generation=1)
    replay(app_with(main), history)
    assert replay_prefixes(app_with(main), history) == 3


def test_an_empty_history_replays() -> None:
    replay(app_with(ship_two), made([], InstanceKey("a")))


async def test_a_replay_leaves_the_running_loop_as_it_was(store_url: str) -> None:
    history = await written(ship_two, store_url)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    replay(app_with(ship_two), history)
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)


# ---- lossless


def made(records: list[Record], key: InstanceKey, generation: int = 0) -> History:
    chain = first_checksum(key, "run", generation)
    rows = []
    for index, record in enumerate(records):
        data = encode_record(record)
        chain = next_checksum(chain, data)
        rows.append(RecordRow(index, data, chain))
    return History(Generation(key, "run", generation, "main"), rows)


DETAILS = FailureDetails("a.Error", "text \N{SNOWMAN}", "stack", FailureDetails("b", "c"), True, ("x", "y"))

# A value for each kind of field, other than the default of any.
BY_ANNOTATION: dict[Any, Any] = {
    int: 2**63,
    int | None: 2**63,
    str: "text \N{SNOWMAN}\0",
    str | None: "another",
    bytes | None: b"\x00\xff",
    bool: True,
    Any: b"\xc4\x01x",
    FailureDetails: DETAILS,
    FailureDetails | None: DETAILS,
    ActivityOptions: ActivityOptions("gpu", 1, 2, 3, 4),
    TaskRef | None: TaskRef("p", "o", "r", 3, 4),
    TaskRef: TaskRef("other", "o", "run", 0, 0),
    Mapping[str, str] | None: {"a": "b", "": "\N{SNOWMAN}"},
}


def full(kind: type[HistoryEvent]) -> HistoryEvent:
    """An event whose every field differs from its default."""
    hints = typing.get_type_hints(kind, localns={"datetime": datetime})
    values = {}
    for field in dataclasses.fields(kind):
        if not field.kw_only:
            value = BY_ANNOTATION[hints[field.name]]
            values[field.name] = not field.default if type(field.default) is bool else value
    return kind(**values)


KINDS = [
    kind for kind in vars(ev).values() if isinstance(kind, type) and issubclass(kind, HistoryEvent) and kind.code >= 0
]


def test_there_is_an_event_of_each_kind() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS) >= 22


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_export_and_load_lose_nothing_of_an_event(kind: type[HistoryEvent]) -> None:
    required = [f.name for f in dataclasses.fields(kind) if not f.kw_only and f.default is dataclasses.MISSING]
    event = full(kind)
    for field in dataclasses.fields(kind):
        assert field.kw_only or getattr(event, field.name) != field.default
    bare = kind(**{name: getattr(event, name) for name in required})
    history = made([Record(1, [event, bare]), Record(2, [bare], is_opening=True)], InstanceKey("a", "kind"))
    loaded = History.load(history.export())
    assert loaded == history
    assert [record.events for record in loaded.records] == [[event, bare], [bare]]
    assert [record.is_opening for record in loaded.records] == [False, True]
    assert loaded.export() == history.export()
