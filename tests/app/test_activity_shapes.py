"""An activity is f(), f(input), f(ctx) or f(ctx, input); everything else is a TypeError at decoration."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import pytest

from durable.app import ActivityDefinition, App
from durable.signatures import Style
from tests.app import contexts
from tests.app.contexts import ActivityContext, JobContext, OrchestrationContext

if TYPE_CHECKING:
    from elsewhere import ActivityContext as RemoteActivityContext  # type: ignore[import-not-found]
    from elsewhere import Order, ShopContext

ContextT = TypeVar("ContextT", bound=ActivityContext)
ModernContext = ActivityContext | None


def registered(function: Callable[..., Any]) -> ActivityDefinition:
    app = App()
    app.activity(name="it")(function)
    return app.find_activity("it")


def shape(function: Callable[..., Any]) -> tuple[bool, bool]:
    definition = registered(function)
    return definition.takes_context, definition.takes_input


# ---- what is an activity


def no_parameter() -> None: ...
def bare_input(order): ...  # type: ignore[no-untyped-def]
def input_named_ctx(ctx): ...  # type: ignore[no-untyped-def]
def typed_input(order: dict[str, int]) -> None: ...
def only_context(ctx: ActivityContext) -> None: ...
def context_of_a_feature(job: JobContext) -> None: ...
def context_by_module(ctx: contexts.ActivityContext) -> None: ...
def optional_context(ctx: ActivityContext | None = None) -> None: ...
def aliased_context(ctx: ModernContext) -> None: ...
def annotated_context(ctx: Annotated[ActivityContext, "note"]) -> None: ...
def generic_context(ctx: ContextT) -> None: ...
def context_out_of_reach(ctx: RemoteActivityContext) -> None: ...
def input_out_of_reach(order: Order) -> None: ...
def odd_input_out_of_reach(ctx: ShopContext) -> None: ...
def bare_two(ctx, order): ...  # type: ignore[no-untyped-def]
def typed_two(ctx: ActivityContext, order: int) -> None: ...
def any_two(ctx: Any, order: Any) -> None: ...
def two_out_of_reach(ctx: RemoteActivityContext, order: Order) -> None: ...
def subclass_out_of_reach(ctx: ShopContext, order: Order) -> None: ...
def positional_only(ctx: ActivityContext, order: int, /) -> None: ...
def keyword_with_default(order: int, *, retries: int = 3) -> None: ...
def any_keywords(order: int, **options: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (no_parameter, ""),
        (bare_input, "input"),
        (input_named_ctx, "input"),
        (typed_input, "input"),
        (only_context, "context"),
        (context_of_a_feature, "context"),
        (context_by_module, "context"),
        (optional_context, "context"),
        (aliased_context, "context"),
        (annotated_context, "context"),
        (generic_context, "context"),
        (context_out_of_reach, "context"),
        (input_out_of_reach, "input"),
        (odd_input_out_of_reach, "input"),
        (bare_two, "context input"),
        (typed_two, "context input"),
        (any_two, "context input"),
        (two_out_of_reach, "context input"),
        (subclass_out_of_reach, "context input"),
        (positional_only, "context input"),
        (keyword_with_default, "input"),
        (any_keywords, "input"),
    ],
)
def test_the_context_is_told_from_the_input(function: Callable[..., Any], takes: str) -> None:
    assert shape(function) == ("context" in takes, "input" in takes)


def early(ctx: LateActivity) -> None: ...


early_app = App()
early_app.activity(early)


class LateActivity(ActivityContext):
    """Its name does not tell that it is a context."""


def test_a_context_class_defined_below_is_found_when_it_is_first_needed() -> None:
    assert early_app.find_activity("early").takes_context


@pytest.mark.parametrize("annotation", [int, Any, list[ActivityContext], type[ActivityContext], "Order | None"])
def test_a_single_parameter_of_any_other_type_is_the_input(annotation: Any) -> None:
    def activity(value: Any) -> None: ...

    activity.__annotations__["value"] = annotation
    assert shape(activity) == (False, True)


def test_the_arguments_of_a_call_follow_the_shape() -> None:
    arguments = {
        f.__name__: registered(f).arguments("C", 0) for f in (no_parameter, bare_input, only_context, bare_two)
    }
    assert arguments == {"no_parameter": (), "bare_input": (0,), "only_context": ("C",), "bare_two": ("C", 0)}


# ---- what is not


def two_inputs(first: int, second: int) -> None: ...
def two_inputs_with_default(first: int, second: int = 2) -> None: ...
def two_inputs_out_of_reach(first: Order, second: Order) -> None: ...
def three(ctx: ActivityContext, first: int, second: int = 2) -> None: ...
def star(*orders: int) -> None: ...
def context_and_star(ctx: ActivityContext, *orders: int) -> None: ...
def keyword_only(*, order: int) -> None: ...
def context_second(order: int, ctx: ActivityContext) -> None: ...
def context_second_after_untyped(order, ctx: ActivityContext) -> None: ...  # type: ignore[no-untyped-def]
def context_second_out_of_reach(order: Order, ctx: RemoteActivityContext) -> None: ...
def orchestration(ctx: OrchestrationContext, order: int) -> None: ...


def generator(order: int) -> Iterator[int]:
    yield order


async def async_generator(order: int) -> AsyncIterator[int]:
    yield order


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (two_inputs, "takes two inputs, for 'first: int'"),
        (two_inputs_with_default, "takes two inputs"),
        (two_inputs_out_of_reach, "takes two inputs, for 'first: Order'"),
        (three, r"takes 3 parameters \(ctx, first, second\)"),
        (star, r"takes \*orders"),
        (context_and_star, r"takes \*orders"),
        (keyword_only, "keyword-only parameter 'order' without a default"),
        (context_second, "'ctx' second"),
        (context_second_after_untyped, "'ctx' second"),
        (context_second_out_of_reach, "'ctx' second"),
        (orchestration, "@app.orchestrator"),
        (generator, "generator function"),
        (async_generator, "async generator function"),
    ],
)
def test_another_shape_is_a_type_error_that_names_function_place_and_shapes(
    function: Callable[..., Any], complaint: str
) -> None:
    app = App()
    with pytest.raises(TypeError, match=complaint) as caught:
        app.activity(function)
    line = function.__code__.co_firstlineno
    assert f"activity '{function.__name__}' ({__file__}:{line})" in str(caught.value)
    assert "An activity is f(), f(input), f(ctx: ActivityContext) or f(ctx: ActivityContext, input)" in str(
        caught.value
    )
    assert app.activities == ()


@pytest.mark.parametrize("value", [7, None, "charge", int, ActivityContext, classmethod(bare_input)])
def test_what_is_no_function_is_a_type_error(value: Any) -> None:
    app = App()
    with pytest.raises(TypeError):
        app.activity(name="it")(value)
    assert app.activities == ()


def test_a_name_given_by_position_is_a_type_error_that_shows_the_keyword() -> None:
    app: Any = App()
    with pytest.raises(TypeError, match=r"@app.activity\(name='charge'\)"):
        app.activity("charge")


# ---- other callables


class Service:
    def charge(self, order: int) -> str:
        return f"charged {order}"

    @classmethod
    def refund(cls, order: int) -> str:
        return f"refunded {order}"


def test_a_method_without_its_instance_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"app.activity\(instance.method\)"):
        App().activity(Service.charge)


def test_a_bound_method_takes_its_input_and_is_found_at_each_access() -> None:
    app, service = App(), Service()
    app.activity(service.charge)
    definition = app.activity_of(service.charge)
    assert definition is not None
    assert (definition.name, definition.takes_context, definition.takes_input) == ("charge", False, True)
    assert definition.input_annotation is int
    assert definition.function(*definition.arguments(None, 7)) == "charged 7"


def test_a_bound_classmethod_is_an_activity() -> None:
    assert shape(Service.refund) == (False, True)


def test_a_staticmethod_is_registered_as_the_function_that_the_class_hands_out() -> None:
    app = App()

    class Shop:
        @app.activity
        @staticmethod
        def charge(order: int) -> int:
            return order

    assert Shop.charge(7) == 7
    assert app.activity_of(Shop.charge) is app.find_activity("charge")


def test_a_partial_needs_a_name_and_takes_what_is_left() -> None:
    def charge(ctx: ActivityContext, order: int, currency: str) -> str:
        return currency

    partial = functools.partial(charge, currency="EUR")
    with pytest.raises(TypeError, match="name="):
        App().activity(partial)
    definition = registered(partial)
    assert (definition.takes_context, definition.takes_input, definition.input_annotation) == (True, True, int)
    assert definition.result_annotation is str


def test_an_object_with_call_needs_a_name_and_is_run_as_its_call_is_written() -> None:
    class Charge:
        async def __call__(self, order: int) -> str:
            return str(order)

    with pytest.raises(TypeError, match="name="):
        App().activity(Charge())
    definition = registered(Charge())
    assert (definition.is_async, definition.takes_context, definition.input_annotation) == (True, False, int)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(TypeError, match="name="):
        App().activity(lambda order: order)
    assert shape(lambda order: order) == (False, True)


def test_a_builtin_is_an_activity_if_it_tells_its_parameters() -> None:
    assert shape(len) == (False, True)
    with pytest.raises(TypeError, match=r"takes \*args"):
        App().activity(print)


def test_a_callable_that_does_not_tell_its_parameters_is_a_type_error() -> None:
    class Mute:
        __signature__ = "none"

        def __call__(self, order: int) -> None: ...

    with pytest.raises(TypeError, match="wrap it in a def"):
        App().activity(name="it")(Mute())


def test_a_wrapped_function_is_read_as_what_it_wraps_and_run_as_it_is() -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @traced
    async def charge(ctx: ActivityContext, order: int) -> str:
        return str(order)

    definition = registered(charge)
    assert (definition.takes_context, definition.input_annotation, definition.style) == (True, int, Style.PLAIN)
    assert definition.place.startswith(__file__)


def test_async_and_plain_functions_are_told_apart() -> None:
    async def slow(order: int) -> None: ...

    assert registered(slow).style is Style.ASYNC
    assert registered(typed_input).style is Style.PLAIN
    assert registered(len).style is Style.PLAIN
