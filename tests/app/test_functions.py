"""A function stands for what it was registered as: in this app first, else by what decorators noted on it."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from durable.app import ActivityDefinition, App, OrchestratorDefinition, definition_of
from durable.errors import UnknownNameError
from tests.app.contexts import OrchestrationContext


def make_activity() -> Callable[[int], int]:
    def charge(order: int) -> int:
        return order

    return charge


def make_orchestrator() -> Callable[[OrchestrationContext], None]:
    def flow(ctx: OrchestrationContext) -> None: ...

    return flow


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


# ---- in an app


def test_a_function_means_its_own_definition_not_the_newest_of_its_name() -> None:
    app, old, new = App(), make_activity(), make_activity()
    app.activity(version="1")(old)
    app.activity(version="2")(new)
    assert app.activity_of(old) is app.find_activity("charge", "1")
    assert app.activity_of(new) is app.find_activity("charge", "2")


def test_a_function_under_several_versions_means_the_newest_of_them() -> None:
    app, charge = App(), make_activity()
    for version in ("1", "3", "2"):
        app.activity(version=version)(charge)
    assert app.activity_of(charge) is app.find_activity("charge", "3")


def test_a_function_under_several_names_means_the_name_given_first() -> None:
    app, charge = App(), make_activity()
    app.activity(name="first")(charge)
    app.activity(name="second", version="2")(charge)
    assert app.activity_of(charge) is app.find_activity("first")


def test_in_each_app_a_function_means_what_that_app_calls_it() -> None:
    one, other, charge = App(), App(), make_activity()
    one.activity(name="one")(charge)
    other.activity(name="other")(charge)
    assert one.activity_of(charge) is one.find_activity("one")
    assert other.activity_of(charge) is other.find_activity("other")


def test_an_included_function_is_known() -> None:
    part, app, flow = App(), App(), make_orchestrator()
    part.orchestrator(flow)
    app.include(part)
    assert app.orchestrator_of(flow) is app.find_orchestrator("flow")


def test_a_function_of_another_app_is_known_by_its_note() -> None:
    elsewhere, charge = App(), make_activity()
    elsewhere.activity(name="remote")(charge)
    assert App().activity_of(charge) is elsewhere.find_activity("remote")


def test_a_name_means_the_newest_and_an_unknown_one_nothing() -> None:
    app = App()
    app.activity(version="9")(make_activity())
    app.activity(version="10")(make_activity())
    assert app.activity_of("charge") is app.find_activity("charge", "10")
    assert app.activity_of("served by others") is None
    assert app.orchestrator_of("charge") is None


def test_an_undecorated_function_is_an_unknown_name_error_with_the_remedy() -> None:
    app, charge = App(), make_activity()
    with pytest.raises(UnknownNameError, match=r"charge' \(.*test_functions.py:\d+\) .*@app.activity"):
        app.activity_of(charge)
    app.activity(charge)
    with pytest.raises(UnknownNameError, match=r"activity .* is no orchestrator: .*ctx\.call_activity"):
        app.orchestrator_of(charge)


def test_a_wrapper_around_a_registered_function_means_that_function() -> None:
    one, other, charge = App(), App(), make_activity()
    one.activity(name="one")(charge)
    other.activity(name="other")(charge)
    assert one.activity_of(passed_on(charge)) is one.find_activity("one")
    assert other.activity_of(passed_on(charge)) is other.find_activity("other")


def test_a_registered_wrapper_means_itself() -> None:
    app, charge = App(), make_activity()
    app.activity(name="inner")(charge)
    wrapper = passed_on(charge)
    app.activity(name="outer")(wrapper)
    assert app.activity_of(charge) is app.find_activity("inner")
    assert app.activity_of(wrapper) is app.find_activity("outer")
    assert definition_of(charge) is app.find_activity("inner")
    assert definition_of(wrapper) is app.find_activity("outer")


# ---- without an app


def test_a_decorated_function_tells_its_definition_without_an_app() -> None:
    app, charge, flow = App(), make_activity(), make_orchestrator()
    app.activity(name="pay")(charge)
    app.orchestrator(flow)
    assert definition_of(charge) is app.find_activity("pay")
    assert definition_of(charge, ActivityDefinition) is app.find_activity("pay")
    assert definition_of(flow, OrchestratorDefinition) is app.find_orchestrator("flow")


@pytest.mark.parametrize("value", [make_activity(), len, 7, None, functools.partial(len)])
def test_what_was_never_decorated_is_an_unknown_name_error_with_the_remedy(value: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"@app.activity or @app.orchestrator, or pass a name"):
        definition_of(value)


def test_a_function_decorated_as_another_kind_is_an_unknown_name_error() -> None:
    charge = make_activity()
    App().activity(charge)
    with pytest.raises(UnknownNameError, match=r"activity .* is no orchestrator: .*ctx\.call_activity"):
        definition_of(charge, OrchestratorDefinition)


def test_a_function_with_several_names_is_ambiguous_without_an_app() -> None:
    charge = make_activity()
    App().activity(name="one")(charge)
    App().activity(name="other")(charge)
    with pytest.raises(UnknownNameError, match="several names, one, other"):
        definition_of(charge)


def test_another_objects_method_is_not_this_ones() -> None:
    class Service:
        def charge(self, order: int) -> None: ...

    app, service = App(), Service()
    app.activity(service.charge)
    assert definition_of(service.charge) is app.find_activity("charge")
    with pytest.raises(UnknownNameError):
        definition_of(Service().charge)


def test_a_callable_that_takes_no_notes_is_known_to_its_app() -> None:
    app = App()
    app.activity(len)
    assert app.activity_of(len) is app.find_activity("len")


def test_a_function_and_its_app_are_freed_together() -> None:
    app, charge = App(), make_activity()
    app.activity(charge)
    alive = weakref.ref(charge)
    del app, charge
    gc.collect()
    assert alive() is None
