"""None and "no input" are one; a value for a function without input is refused."""

from __future__ import annotations

from typing import Any

import pytest

from durable.app import App
from durable.errors import InvalidInputError
from tests.app.contexts import ActivityContext, OrchestrationContext

app = App()


@app.activity
def plain(order: int) -> None: ...


@app.activity
def with_default(order: int = 7) -> None: ...


@app.activity
def with_none(order: int | None = None) -> None: ...


@app.activity
def nothing() -> None: ...


@app.activity
def only_context(ctx: ActivityContext) -> None: ...


@app.orchestrator
def flow(ctx: OrchestrationContext) -> None: ...


@pytest.mark.parametrize(
    ("name", "has_default", "value"),
    [("plain", False, None), ("with_default", True, 7), ("with_none", True, None), ("nothing", False, None)],
)
def test_no_input_means_the_parameters_default_else_none(name: str, has_default: bool, value: Any) -> None:
    definition = app.find_activity(name)
    assert definition.has_default_input is has_default
    assert definition.default_input() == value


@pytest.mark.parametrize("definition", [*app.activities, *app.orchestrators], ids=lambda d: d.name)
def test_none_is_accepted_by_every_function(definition: Any) -> None:
    definition.check_accepts(None)


@pytest.mark.parametrize("value", [0, False, "", [], {}, 7])
@pytest.mark.parametrize("name", ["nothing", "only_context"])
def test_a_value_for_a_function_without_input_is_refused_also_a_falsy_one(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"activity '{name}' .* takes no input"):
        app.find_activity(name).check_accepts(value)


def test_a_value_for_an_orchestrator_without_input_is_refused_without_showing_the_value() -> None:
    with pytest.raises(InvalidInputError) as caught:
        app.find_orchestrator("flow").check_accepts("secret")
    assert "was given a str" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [0, "", 7, object()])
def test_a_value_for_a_function_with_input_is_accepted_whatever_its_type(value: Any) -> None:
    app.find_activity("plain").check_accepts(value)
