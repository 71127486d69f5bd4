"""Options are checked where they are written, and kept on the definition."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durable.app import ActivityOptions, App, OrchestratorOptions
from durable.retry import RetryPolicy
from tests.app.contexts import OrchestrationContext

MINUTE = timedelta(minutes=1)
POLICY = RetryPolicy(timedelta(seconds=1), 3)


def charge(order: str) -> None: ...
def flow(ctx: OrchestrationContext) -> None: ...
def customer(order: str) -> str:
    return order


def test_a_bare_decorator_declares_nothing() -> None:
    app = App()
    app.activity(charge)
    app.orchestrator(flow)
    assert app.find_activity("charge").options == ActivityOptions()
    assert app.find_activity("charge").options.queue == "default"
    assert app.find_orchestrator("flow").options == OrchestratorOptions()


def test_every_option_is_kept() -> None:
    app = App()
    options: dict[str, Any] = {
        "retry_policy": POLICY,
        "timeout": MINUTE,
        "heartbeat_timeout": timedelta(seconds=5),
        "queue": "gpu",
        "max_concurrency": 2,
        "rate": 10,
        "per": MINUTE,
        "key": customer,
    }
    app.activity(name="pay", version="1.10", **options)(charge)
    definition = app.find_activity("pay")
    assert (definition.name, definition.version, definition.exact_version) == ("pay", "1.10", "1.10")
    assert definition.options == ActivityOptions(**options)

    app.orchestrator(name="order", version="2.0", retry_policy=POLICY, retain=MINUTE)(flow)
    orchestrator = app.find_orchestrator("order")
    assert (orchestrator.version, orchestrator.exact_version) == ("2.0", "2")
    assert orchestrator.options == OrchestratorOptions(POLICY, MINUTE)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": "5"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": timedelta(0)}, ValueError),
        ({"timeout": -MINUTE}, ValueError),
        ({"heartbeat_timeout": timedelta(0)}, ValueError),
        ({"heartbeat_timeout": "5s"}, TypeError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": True}, TypeError),
        ({"max_concurrency": 1.0}, TypeError),
        ({"rate": 10}, ValueError),
        ({"per": MINUTE}, ValueError),
        ({"rate": 0, "per": MINUTE}, ValueError),
        ({"rate": True, "per": MINUTE}, TypeError),
        ({"rate": 10, "per": 60}, TypeError),
        ({"rate": 10, "per": timedelta(0)}, ValueError),
        ({"key": len}, ValueError),
        ({"key": "customer", "max_concurrency": 1}, TypeError),
        ({"queue": ""}, ValueError),
        ({"queue": None}, TypeError),
        ({"retry_policy": 3}, TypeError),
        ({"name": ""}, ValueError),
        ({"name": " \n"}, ValueError),
        ({"name": "a\0b"}, ValueError),
        ({"name": "\ud800"}, ValueError),
        ({"name": "é" * 257}, ValueError),
        ({"name": 7}, TypeError),
        ({"version": "1.x"}, ValueError),
        ({"version": 1.1}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
    ids=repr,
)
def test_a_bad_option_of_an_activity_is_refused_at_decoration(options: dict[str, Any], error: type[Exception]) -> None:
    app = App()
    with pytest.raises(error) as caught:
        app.activity(**options)(charge)
    assert any(option in str(caught.value) for option in options)
    assert app.activities == ()


def test_a_timeout_is_a_timedelta_or_seconds() -> None:
    declared = ActivityOptions(timeout=90, heartbeat_timeout=0.5)
    assert (declared.timeout, declared.heartbeat_timeout) == (timedelta(seconds=90), timedelta(seconds=0.5))
    assert ActivityOptions(timeout=float("inf")).timeout == timedelta(seconds=1e12)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retain": 5}, TypeError),
        ({"retain": -MINUTE}, ValueError),
        ({"retry_policy": "twice"}, TypeError),
        ({"name": ""}, ValueError),
        ({"version": "latest"}, ValueError),
        ({"timeout": MINUTE}, TypeError),
    ],
    ids=repr,
)
def test_a_bad_option_of_an_orchestrator_is_refused_at_decoration(
    options: dict[str, Any], error: type[Exception]
) -> None:
    app = App()
    with pytest.raises(error):
        app.orchestrator(**options)(flow)
    assert app.orchestrators == ()


@pytest.mark.parametrize("name", ["é" * 256, "a", "shop/charge %_", "CHARGE"])
def test_a_name_is_any_text_of_up_to_512_bytes(name: str) -> None:
    app = App()
    app.activity(name=name)(charge)
    assert app.find_activity(name).name == name


def test_an_orchestrator_is_retained_as_its_app_says_unless_it_says_otherwise() -> None:
    app = App(retain=MINUTE)
    app.orchestrator(name="as the app")(flow)
    app.orchestrator(name="at once gone", retain=timedelta(0))(flow)
    assert app.retain == MINUTE
    assert app.find_orchestrator("as the app").options.retain == MINUTE
    assert app.find_orchestrator("at once gone").options.retain == timedelta(0)


def test_an_included_orchestrator_is_retained_as_its_own_app_says() -> None:
    part, app = App(retain=MINUTE), App(retain=2 * MINUTE)
    part.orchestrator(flow)
    app.include(part)
    assert app.find_orchestrator("flow").options.retain == MINUTE


@pytest.mark.parametrize(("retain", "error"), [(5, TypeError), (-MINUTE, ValueError)])
def test_a_bad_retain_of_an_app_is_refused(retain: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="retain"):
        App(retain=retain)
