"""An orchestrator is f(ctx) or f(ctx, input): a generator function, an async def or a plain function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import pytest

from durable.app import App, OrchestratorDefinition
from durable.signatures import EMPTY, Style
from tests.app.contexts import ActivityContext, OrchestrationContext

if TYPE_CHECKING:
    from elsewhere import Order, RemoteContext  # type: ignore[import-not-found]

R = TypeVar("R")
Flow: TypeAlias = Generator[Any, Any, R]


def registered(function: Callable[..., Any]) -> OrchestratorDefinition:
    app = App()
    app.orchestrator(function)
    return app.find_orchestrator(function.__name__)


def only_context(ctx: OrchestrationContext) -> None: ...
def bare(ctx): ...  # type: ignore[no-untyped-def]
def context_out_of_reach(ctx: RemoteContext, order: Order) -> None: ...
def with_input(ctx: OrchestrationContext, order: int) -> None: ...
def with_default(ctx: OrchestrationContext, order: int = 7) -> None: ...


@pytest.mark.parametrize("function", [only_context, bare])
def test_one_parameter_is_the_context(function: Callable[..., Any]) -> None:
    definition = registered(function)
    assert (definition.takes_context, definition.takes_input) == (True, False)
    assert definition.arguments("C", None) == ("C",)


@pytest.mark.parametrize("function", [with_input, with_default, context_out_of_reach])
def test_two_parameters_are_context_and_input(function: Callable[..., Any]) -> None:
    definition = registered(function)
    assert (definition.takes_context, definition.takes_input) == (True, True)
    assert definition.arguments("C", 0) == ("C", 0)


def nothing() -> None: ...
def three(ctx: OrchestrationContext, first: int, second: int) -> None: ...
def star(ctx: OrchestrationContext, *orders: int) -> None: ...
def keyword_only(ctx: OrchestrationContext, *, order: int) -> None: ...
def forgotten_context(cities: list[str]) -> None: ...
def context_of_an_activity(ctx: ActivityContext, order: int) -> None: ...


async def async_generator(ctx: OrchestrationContext) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (nothing, "takes no parameter"),
        (three, "takes 3 parameters"),
        (star, r"takes \*orders"),
        (keyword_only, "keyword-only"),
        (forgotten_context, r"'cities: list\[str\]' where its context belongs"),
        (context_of_an_activity, "'ctx: ActivityContext' where its context belongs"),
        (async_generator, "async generator"),
    ],
)
def test_another_shape_is_a_type_error_that_names_function_place_and_shapes(
    function: Callable[..., Any], complaint: str
) -> None:
    app = App()
    with pytest.raises(TypeError, match=complaint) as caught:
        app.orchestrator(function)
    assert f"orchestrator '{function.__name__}' ({__file__}:{function.__code__.co_firstlineno})" in str(caught.value)
    assert "An orchestrator is f(ctx) or f(ctx, input)" in str(caught.value)
    assert app.orchestrators == ()


# ---- styles and results


def generator_flow(ctx: OrchestrationContext) -> Flow[list[str]]:
    yield
    return []


def generator_written_out(ctx: OrchestrationContext) -> Generator[Any, Any, int]:
    yield
    return 1


def generator_annotated(ctx: OrchestrationContext) -> Annotated[Flow[int], "note"]:
    yield
    return 1


def generator_iterator(ctx: OrchestrationContext) -> Iterator[int]:
    yield 1


def generator_bare_alias(ctx: OrchestrationContext) -> Flow:  # type: ignore[type-arg]
    yield


def generator_untyped(ctx: OrchestrationContext):  # type: ignore[no-untyped-def]
    yield


def generator_alias_out_of_reach(ctx: OrchestrationContext) -> Orchestration[int]:  # type: ignore[name-defined]  # noqa: F821
    yield
    return 1


def generator_result_out_of_reach(ctx: OrchestrationContext) -> Flow[Order]:
    yield


async def async_flow(ctx: OrchestrationContext) -> list[str]:
    return []


def plain_flow(ctx: OrchestrationContext) -> int:
    return 1


def plain_generator(ctx: OrchestrationContext) -> Flow[int]:
    return generator_written_out(ctx)


def plain_coroutine(ctx: OrchestrationContext) -> Coroutine[Any, Any, list[str]]:
    return async_flow(ctx)


def plain_awaitable(ctx: OrchestrationContext) -> Awaitable[list[str]]:
    return async_flow(ctx)


@pytest.mark.parametrize(
    ("function", "style", "result"),
    [
        (generator_flow, Style.GENERATOR, list[str]),
        (generator_written_out, Style.GENERATOR, int),
        (generator_annotated, Style.GENERATOR, int),
        (generator_iterator, Style.GENERATOR, EMPTY),
        (generator_bare_alias, Style.GENERATOR, EMPTY),
        (generator_untyped, Style.GENERATOR, EMPTY),
        (generator_alias_out_of_reach, Style.GENERATOR, int),
        (generator_result_out_of_reach, Style.GENERATOR, EMPTY),
        (async_flow, Style.ASYNC, list[str]),
        (plain_flow, Style.PLAIN, int),
        (plain_generator, Style.PLAIN, int),
        (plain_coroutine, Style.PLAIN, list[str]),
        (plain_awaitable, Style.PLAIN, list[str]),
        (only_context, Style.PLAIN, type(None)),
        (bare, Style.PLAIN, EMPTY),
    ],
)
def test_the_result_annotation_is_what_a_run_finally_gives(
    function: Callable[..., Any], style: Style, result: Any
) -> None:
    definition = registered(function)
    assert definition.style is style
    assert definition.result_annotation == result
