"""The public face of the package: what `import durable` offers is complete, sorted and typed."""

from __future__ import annotations

import types
from importlib.metadata import entry_points

import durable
import durable.testing
from durable.errors import StoredValueError
from durable.worker.steps import StallError
from tests.house.source_tree import ROOT

# The interface that users were promised. A name may be added here; removing one breaks programs.
PROMISED = frozenset(
    {
        "ActivityContext",
        "ActivityFailedError",
        "ActivityTimeoutError",
        "App",
        "Client",
        "DuplicateNameError",
        "DurableError",
        "EventDataError",
        "FailureDetails",
        "Handle",
        "History",
        "HistoryEvent",
        "InstanceAlreadyExistsError",
        "InstanceFinishedError",
        "InstanceNotFoundError",
        "InvalidInputError",
        "NonDurableAwaitError",
        "NonRetryableError",
        "Orchestration",
        "OrchestrationCancelledError",
        "OrchestrationContext",
        "OrchestrationFailedError",
        "OrchestrationState",
        "OrchestrationStatus",
        "OrchestrationTerminatedError",
        "RetryPolicy",
        "ReusePolicy",
        "SubOrchestrationFailedError",
        "SyncClient",
        "SyncHandle",
        "Task",
        "TaskFailedError",
        "Worker",
        "WorkerLostError",
        "current_activity",
        "when_all",
        "when_any",
    }
)


# What stalls an instance is its `stall_reason`; nobody can catch it.
NEVER_RAISED_TO_USERS = frozenset({StallError, StoredValueError})


def public_names() -> set[str]:
    """What a reader of `dir(durable)` takes for public: no underscore, no submodule, nothing from `__future__`."""
    return {
        name
        for name, value in vars(durable).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }


def test_all_promised_names_are_there() -> None:
    assert set(durable.__all__) >= PROMISED


def test_all_names_every_public_name_and_only_those() -> None:
    assert set(durable.__all__) == public_names()


def test_all_is_sorted_and_without_doubles() -> None:
    assert list(durable.__all__) == sorted(set(durable.__all__))


def test_the_names_for_tests_are_sorted_and_there() -> None:
    assert list(durable.testing.__all__) == sorted(set(durable.testing.__all__))
    assert all(hasattr(durable.testing, name) for name in durable.testing.__all__)


def test_every_event_that_a_history_shows_is_public() -> None:
    kinds, found = [durable.HistoryEvent], set()
    while kinds:
        kind = kinds.pop()
        below = [other for other in kind.__subclasses__() if other.__module__.partition(".")[0] == "durable"]
        kinds += below
        found |= set() if below else {kind.__name__}
    never_recorded = {"Remark", "QueryReceived"}
    # Those of the keepers of limits, whose histories nobody is shown.
    of_keepers = {name for name in found if name.startswith("Permit")}
    assert found - never_recorded - of_keepers <= set(durable.__all__)


def test_every_kind_of_error_that_users_can_catch_is_public() -> None:
    """An error of the package is public itself, or is caught by a public one that says what went wrong."""
    named = [*vars(durable).values(), *(getattr(durable.testing, name) for name in durable.testing.__all__)]
    public = {value for value in named if isinstance(value, type) and issubclass(value, Exception)}
    kinds, found = [durable.DurableError], set()
    while kinds:
        kind = kinds.pop()
        kinds += [other for other in kind.__subclasses__() if other.__module__.partition(".")[0] == "durable"]
        found.add(kind)
    vague = {durable.DurableError, durable.StoreError}
    hidden = {kind for kind in found - public if not (set(kind.__mro__) & public) - vague}
    assert hidden <= NEVER_RAISED_TO_USERS, sorted(kind.__name__ for kind in hidden - NEVER_RAISED_TO_USERS)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "durable" / "py.typed").exists()


def test_all_stores_are_found_by_scheme() -> None:
    schemes = {entry.name: entry for entry in entry_points(group="durable.providers")}
    for scheme in ("memory", "sqlite", "postgresql", "postgres"):
        assert callable(schemes[scheme].load())
