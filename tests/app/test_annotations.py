"""Annotations kept as text are resolved at first use; only what is out of reach then counts as missing."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from durable.app import App
from durable.signatures import EMPTY

if TYPE_CHECKING:
    from elsewhere import Remote  # type: ignore[import-not-found]

app = App()


@app.activity
def takes_what_follows(order: Order) -> list[Order]:
    return [order]


@dataclasses.dataclass
class Order:
    number: int


@app.activity
def half_out_of_reach(order: Order | None) -> Remote:
    raise NotImplementedError


@app.activity
def raises_when_evaluated(order: 1 / 0) -> int:  # type: ignore[valid-type]
    raise NotImplementedError


@app.activity
def keeps_extras(order: Annotated[int, "positive"] = 0) -> None: ...


@app.activity
def untyped(order):  # type: ignore[no-untyped-def]
    return order


@app.activity
async def slow(order: int) -> str:
    return str(order)


def types_of(name: str) -> tuple[Any, Any]:
    definition = app.find_activity(name)
    return definition.input_annotation, definition.result_annotation


def test_a_type_may_be_defined_below_the_function() -> None:
    assert types_of("takes_what_follows") == (Order, list[Order])


def test_only_the_annotation_out_of_reach_counts_as_missing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="durable"):
        assert types_of("half_out_of_reach") == (Order | None, EMPTY)
        assert types_of("half_out_of_reach") == (Order | None, EMPTY)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "Remote" in caplog.text
    assert __file__ in caplog.text


def test_an_annotation_that_raises_counts_as_missing() -> None:
    assert types_of("raises_when_evaluated") == (EMPTY, int)


def test_no_annotation_is_missing_and_none_is_a_type() -> None:
    assert types_of("untyped") == (EMPTY, EMPTY)
    assert app.find_activity("keeps_extras").result_annotation is type(None)


def test_annotated_keeps_what_is_attached_to_it() -> None:
    assert app.find_activity("keeps_extras").input_annotation == Annotated[int, "positive"]


def test_the_result_of_an_async_activity_is_what_awaiting_it_gives() -> None:
    assert types_of("slow") == (int, str)


def test_a_class_of_an_enclosing_function_is_found() -> None:
    local_app = App()

    @dataclasses.dataclass
    class Local:
        number: int

    def declare() -> None:
        @dataclasses.dataclass
        class Inner:
            number: int

        @local_app.activity
        def charge(order: Local) -> list[Inner]:
            raise NotImplementedError

        local_app.activity(name="again")(charge)
        assert local_app.find_activity("charge").result_annotation == list[Inner]

    declare()
    assert local_app.find_activity("charge").input_annotation is Local
    assert local_app.find_activity("again").input_annotation is Local


def test_a_function_without_input_has_no_input_annotation() -> None:
    local_app = App()

    @local_app.activity
    def nothing() -> int:
        return 1

    definition = local_app.find_activity("nothing")
    assert (definition.input_annotation, definition.input_default) == (EMPTY, EMPTY)
