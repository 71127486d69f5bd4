"""The public face of the package: what `import durable` offers is complete, sorted and typed."""

from __future__ import annotations

import types
from importlib.metadata import entry_points

import durable
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


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "durable" / "py.typed").exists()


def test_both_stores_are_found_by_scheme() -> None:
    schemes = {entry.name: entry for entry in entry_points(group="durable.providers")}
    assert {"memory", "sqlite"} <= set(schemes)
    assert callable(schemes["memory"].load())
    assert callable(schemes["sqlite"].load())
