"""One function per name and version; lookups find the newest unless pinned, and explain themselves when they fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from durable.app import ActivityDefinition, App, OrchestratorDefinition, ServedName, definition_of
from durable.errors import DuplicateNameError, UnknownNameError
from tests.app.contexts import OrchestrationContext


def charge(order: int) -> int:
    return order


def other_charge(order: int) -> int:
    return -order


def flow(ctx: OrchestrationContext) -> None: ...
def newer_flow(ctx: OrchestrationContext) -> None: ...


def place(function: Any) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


# ---- registering


def test_the_decorator_returns_the_function_itself() -> None:
    app = App()
    assert app.activity(charge) is charge
    assert app.activity(name="again", timeout=timedelta(seconds=1))(charge) is charge
    assert app.orchestrator(flow) is flow
    assert app.orchestrator(name="again")(flow) is flow
    assert charge(7) == 7


def test_the_default_name_is_the_functions() -> None:
    app = App()
    app.activity(charge)
    app.orchestrator(flow)
    assert [definition.name for definition in (*app.activities, *app.orchestrators)] == ["charge", "flow"]


@pytest.mark.parametrize(("one", "other"), [(None, None), (None, "0"), ("1", "1.0"), ("1.10", "1.10")])
def test_two_functions_under_one_name_and_version_are_refused_at_once_with_both_places(
    one: str | None, other: str | None
) -> None:
    app = App()
    app.activity(name="charge", version=one)(charge)
    with pytest.raises(DuplicateNameError) as caught:
        app.activity(name="charge", version=other)(other_charge)
    assert place(charge) in str(caught.value)
    assert place(other_charge) in str(caught.value)
    assert app.find_activity("charge").function is charge
    with pytest.raises(UnknownNameError):
        app.activity_of(other_charge)


def test_the_very_same_function_again_is_harmless() -> None:
    app = App()
    app.activity(charge)
    app.activity(charge)
    assert len(app.activities) == 1


def test_the_very_same_function_again_with_other_options_is_refused() -> None:
    app = App()
    app.activity(charge)
    with pytest.raises(DuplicateNameError, match="other options"):
        app.activity(queue="gpu")(charge)
    assert app.find_activity("charge").options.queue == "default"


def test_an_activity_and_an_orchestrator_may_share_a_name() -> None:
    app = App()
    app.activity(name="it")(charge)
    app.orchestrator(name="it")(flow)
    assert app.find_activity("it").function is charge
    assert app.find_orchestrator("it").function is flow


# ---- by name


def versioned() -> App:
    app = App()
    app.orchestrator(name="flow", version="1.10")(newer_flow)
    app.orchestrator(name="flow", version="1.9")(flow)
    app.activity(name="charge")(charge)
    app.activity(name="charge", version="2")(other_charge)
    return app


def test_the_newest_version_is_found_unless_one_is_named() -> None:
    app = versioned()
    assert app.newest("flow").function is newer_flow
    assert app.find_orchestrator("flow").function is newer_flow
    assert app.find_orchestrator("flow", "1.9").function is flow
    assert app.find_orchestrator("flow", "1.9.0").function is flow
    assert app.find_activity("charge").function is other_charge


def test_the_exact_version_finds_the_definition_again_also_the_one_without_version() -> None:
    app = versioned()
    for definition in app.activities:
        assert app.find_activity(definition.name, definition.exact_version) is definition
    assert app.find_activity("charge", "0").function is charge


def test_an_unknown_name_is_answered_with_the_known_the_close_and_the_remedy() -> None:
    with pytest.raises(UnknownNameError) as caught:
        versioned().find_activity("chrage")
    text = str(caught.value)
    assert "no activity 'chrage'" in text
    assert "Did you mean 'charge'?" in text
    assert "Known activities: 'charge'" in text
    assert "@app.activity" in text


def test_an_unknown_name_of_an_empty_app_says_that_it_is_empty() -> None:
    with pytest.raises(UnknownNameError, match="Known orchestrators: none"):
        App().find_orchestrator("flow")


@pytest.mark.parametrize("has_app", [True, False])
def test_a_function_of_the_other_kind_is_called_that_with_the_way_to_use_it(has_app: bool) -> None:
    app = App()

    @app.activity
    def pay(order: int) -> None: ...

    @app.orchestrator
    def order(ctx: OrchestrationContext) -> None: ...

    with pytest.raises(UnknownNameError) as as_orchestrator:
        app.orchestrator_of(pay) if has_app else definition_of(pay, OrchestratorDefinition)
    with pytest.raises(UnknownNameError) as as_activity:
        app.activity_of(order) if has_app else definition_of(order, ActivityDefinition)
    assert str(as_orchestrator.value) == (
        f"activity 'pay' ({place(pay)}) is no orchestrator: it is called inside an orchestrator, by "
        "ctx.call_activity(...), and that orchestrator is started"
    )
    assert str(as_activity.value) == (
        f"orchestrator 'order' ({place(order)}) is no activity: inside another one it is called by "
        "ctx.call_sub_orchestrator(...)"
    )


def test_a_large_app_does_not_print_itself() -> None:
    app = App()
    for number in range(1000):
        app.activity(name=f"activity-{number}")(charge)
    with pytest.raises(UnknownNameError) as caught:
        app.find_activity("nothing like it")
    assert len(str(caught.value)) < 1000


def test_an_unknown_version_is_answered_with_the_known_versions() -> None:
    with pytest.raises(UnknownNameError, match=r"version 1\.9, 1\.10, but not in 2"):
        versioned().find_orchestrator("flow", "2")


def test_a_name_of_the_other_kind_is_pointed_out() -> None:
    with pytest.raises(UnknownNameError, match="That name is an orchestrator 'flow'"):
        versioned().find_activity("flow")


# ---- including


def test_include_brings_everything_and_may_be_repeated() -> None:
    app, part = App(), versioned()
    app.include(part)
    app.include(part)
    app.include(app)
    assert app.activities == part.activities
    assert app.orchestrators == part.orchestrators
    assert app.newest("flow").function is newer_flow


def test_include_is_all_or_nothing() -> None:
    app, part = App(), App()
    app.orchestrator(name="flow")(flow)
    app.feature(Marks, Marks).names["kept"] = flow
    part.activity(charge)
    part.orchestrator(name="flow")(newer_flow)
    part.feature(Marks, Marks).names["new"] = charge
    with pytest.raises(DuplicateNameError) as caught:
        app.include(part)
    assert place(flow) in str(caught.value)
    assert place(newer_flow) in str(caught.value)
    assert app.activities == ()
    assert app.find_orchestrator("flow").function is flow
    assert app.feature(Marks, Marks).names == {"kept": flow}


def test_include_leaves_the_other_app_alone() -> None:
    app, part = App(), App()
    part.activity(charge)
    app.include(part)
    app.orchestrator(flow)
    assert part.orchestrators == ()


def test_include_takes_an_app_only() -> None:
    app: Any = App()
    with pytest.raises(TypeError, match="App"):
        app.include([charge])


# ---- what a worker announces


def test_served_lists_kind_name_and_canonical_version_in_order() -> None:
    app = versioned()
    app.activity(name="audit", version="1.0")(charge)
    assert app.served() == [
        ServedName("activity", "audit", "1"),
        ServedName("activity", "charge", "0"),
        ServedName("activity", "charge", "2"),
        ServedName("orchestrator", "flow", "1.9"),
        ServedName("orchestrator", "flow", "1.10"),
    ]


# ---- the seam for features


@dataclasses.dataclass
class Marks:
    """A feature's registry as small as can be."""

    names: dict[str, Any] = dataclasses.field(default_factory=dict)

    def merged(self, other: Marks) -> Marks:
        if twice := [name for name in self.names if other.names.get(name, self.names[name]) is not self.names[name]]:
            raise DuplicateNameError(f"two marks {twice}")
        return Marks({**self.names, **other.names})

    def served(self) -> Iterable[ServedName]:
        return [ServedName("mark", name, "0") for name in self.names]


def test_a_feature_keeps_its_own_registry_in_the_app() -> None:
    app = App()
    app.feature(Marks, Marks).names["a"] = charge
    assert app.feature(Marks, Marks).names == {"a": charge}
    assert App().feature(Marks, Marks).names == {}
    assert app.served() == [ServedName("mark", "a", "0")]


def test_include_brings_what_features_keep() -> None:
    app, part = App(), App()
    part.feature(Marks, Marks).names["a"] = charge
    app.include(part)
    app.feature(Marks, Marks).names["b"] = charge
    assert app.feature(Marks, Marks).names == {"a": charge, "b": charge}
    assert part.feature(Marks, Marks).names == {"a": charge}


def test_a_contradiction_inside_a_feature_refuses_the_whole_include() -> None:
    app, part = App(), App()
    app.feature(Marks, Marks).names["a"] = charge
    part.feature(Marks, Marks).names["a"] = other_charge
    part.activity(charge)
    with pytest.raises(DuplicateNameError):
        app.include(part)
    assert app.activities == ()
