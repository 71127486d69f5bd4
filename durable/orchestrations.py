"""Between the engine and a registered orchestrator: what the worker makes executions with.

The engine knows programs, encoded values and details; an orchestrator is a function with types. `OrchestrationRunner` is
the edge between them, one for each definition, shared by all its instances. What runs instances of another kind is
registered by the feature that they belong to.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from durable.app import App, OrchestratorDefinition, OrchestratorOptions, ServedName
from durable.context import OrchestrationContext, Plans
from durable.engine.deliveries import DELIVERIES
from durable.engine.execution import Execution
from durable.errors import FailureDetails, InvalidInputError, StoredValueError, UnknownNameError
from durable.events import (
    ORCHESTRATION,
    InstanceKey,
    OrchestrationCodeChanged,
    OrchestrationFailed,
    OrchestrationStarted,
)
from durable.failures import describe
from durable.payloads import PayloadError, Sealer, check, digest
from durable.signatures import code_digest, read_orchestrator

LOGGER_NAME: Final = "durable.orchestration"

# A default of one of these cannot be changed by the code that gets it.
_UNCHANGEABLE: Final = (str, bytes, int, float, bool, type(None))


class Edge:
    """What the engine needs from outside, for the executions of one definition.

    `strict`: a value that differs on replay stalls its instance; else it is logged, counted in `value_differences`, and
    passed to `on_value_difference`.
    """

    code_digest: bytes | None = None

    def __init__(
        self,
        sealer: Sealer,
        *,
        strict: bool = False,
        logger: logging.Logger | None = None,
        on_value_difference: Callable[[str], None] | None = None,
    ) -> None:
        self.strict = strict
        self.value_differences = 0
        self._sealer = sealer
        self._logger = logger or logging.getLogger(LOGGER_NAME)
        self._on_value_difference = on_value_difference

    def seal(self, plain: bytes) -> tuple[bytes, bytes | None]:
        """Return the stored form of an encoded value, and its digest where the two differ."""
        stored = self._sealer.seal(plain)
        return stored, None if stored is plain else digest(plain)

    def digest(self, plain: bytes) -> bytes:
        """Return the digest of an encoded value."""
        return digest(plain)

    def describe(self, error: BaseException) -> FailureDetails:
        """Return the details of an exception that left the user's code."""
        return describe(error)

    def value_differs(self, explanation: str) -> None:
        """Count and log a value that differs on replay; the recorded one is used."""
        self.value_differences += 1
        self._logger.warning("%s", explanation)
        if self._on_value_difference is not None:
            self._on_value_difference(explanation)


class OrchestrationRunner(Edge):
    """Makes executions of one orchestrator, and is the ports through which they reach the edge; options as `Edge` says."""

    def __init__(self, app: App, definition: OrchestratorDefinition, sealer: Sealer, **options: Any) -> None:
        super().__init__(sealer, **options)
        self.definition = definition
        self.code_digest = code_digest_of(definition)
        self._plans = Plans(app, sealer)
        self._what_result = f"result of orchestrator '{definition.name}'"
        self._what_input = f"input of orchestrator '{definition.name}'"

    def new_execution(self, key: InstanceKey, run_id: str, generation: int) -> Execution:
        """Return an execution of this orchestrator, to be fed with the records of that generation."""
        return Execution(key, run_id, generation, self.begin, self)

    # ---- the program

    def begin(self, execution: Execution) -> Any:
        """Call the orchestrator, in its first turn or in a replay of it."""
        started = execution.started
        assert started is not None, "a program begins when its orchestration has started"
        definition = self.definition
        value = self._input(execution, started)
        return definition.function(
            *definition.arguments(OrchestrationContext(execution, self._plans, definition), value)
        )

    def _input(self, execution: Execution, started: OrchestrationStarted) -> Any:
        """Return what the function gets. Raises InvalidInputError in the first turn, StoredValueError in a replay of it.

        A first turn that failed for its input is on record as such, and fails again.
        """
        try:
            return self._decoded_input(started)
        except (PayloadError, InvalidInputError) as error:
            if not execution.is_replaying or isinstance(execution.recorded_request, OrchestrationFailed):
                raise InvalidInputError(str(error)) from None
            raise StoredValueError(
                f"{error}. It fitted when this instance began: let the type take such inputs too, or deploy the change as a "
                "new version"
            ) from error

    def _decoded_input(self, started: OrchestrationStarted) -> Any:
        definition = self.definition
        if not definition.takes_input:
            if started.input is not None:
                definition.check_accepts(self._plans.decode(started.input, Any, self._what_input))
            return None
        if definition.has_default_input:
            # None and "no input" are one, also where a client that had no app at hand wrote a None.
            value = None if started.input is None else self._plans.decode(started.input, Any, self._what_input)
            if value is None:
                return _own_copy(definition.default_input())
        return self._plans.decode(started.input, definition.input_annotation, self._what_input)

    def encode_result(self, value: Any) -> bytes:
        """Return the payload of what the orchestrator returned. Raises InvalidInputError, LimitExceededError."""
        return check(value, self.definition.result_annotation, what=self._what_result)


def _own_copy(default: Any) -> Any:
    """Return a default that no other instance and no replay shares: a list that one appends to would differ the next time."""
    return default if isinstance(default, _UNCHANGEABLE) else copy.deepcopy(default)


def code_digest_of(definition: Runnable) -> bytes | None:
    """Return what tells its code from another one under the same name and version.

    None for what is no function: entities and the like go by their records, whatever their code is by now.
    """
    return code_digest(definition.function) if isinstance(definition, OrchestratorDefinition) else None


def _note_code(execution: Execution, event: OrchestrationCodeChanged) -> None:
    """Take in that what follows was asked for by other code."""
    if execution.started is not None:
        execution.started = dataclasses.replace(execution.started, code_digest=event.code_digest, python=event.python)


DELIVERIES[OrchestrationCodeChanged] = _note_code


# ---- instances of every kind


class Runner(Protocol):
    """Makes executions of one definition."""

    def new_execution(self, key: InstanceKey, run_id: str, generation: int) -> Execution:
        """Return an execution, to be fed with the records of that generation."""
        ...


class Runnable(Protocol):
    """What an app knows of something that instances run."""

    @property
    def exact_version(self) -> str:
        """Its version in canonical spelling, "0" for none."""
        ...


class InstanceKind(NamedTuple):
    """How the instances of one kind are run.

    `served`: what workers announce those as that they can run. `find(app, name, version)` returns a definition, the newest
    without a version; raises UnknownNameError. `make_runner(app, definition, sealer, strict)` is called once for each.
    `built_in`: the name and version of what every worker can run, whatever its app.
    """

    served: str
    find: Callable[[App, str, str | None], Runnable]
    make_runner: Callable[[App, Any, Sealer, bool], Runner]
    built_in: tuple[str, str] | None = None


def _orchestration_runner(app: App, definition: OrchestratorDefinition, sealer: Sealer, strict: bool) -> Runner:
    return OrchestrationRunner(app, definition, sealer, strict=strict)


_built_in: dict[tuple[str, str], OrchestratorDefinition] = {}


def register_built_in(function: Callable[..., Any], name: str, version: str, *, kind: str = ORCHESTRATION) -> None:
    """Let every worker run an orchestrator of a feature's own, whatever its app: one of users' kind, or of a kind of its own.

    Raises ValueError for a name or a kind that is taken.
    """
    definition = OrchestratorDefinition(name, version, function, read_orchestrator(function), OrchestratorOptions())
    if _built_in.setdefault((kind, name), definition) is not definition:
        raise ValueError(f"the orchestrator '{name}' belongs to another feature")
    if kind != ORCHESTRATION:
        register_kind(kind, InstanceKind(kind, functools.partial(_find, kind), _orchestration_runner))


def served_by(app: App) -> list[ServedName]:
    """Return all that a worker with this app can run: what the app serves, and the orchestrators of features."""
    built_in = [ServedName(_kinds[kind].served, one.name, one.exact_version) for (kind, _), one in _built_in.items()]
    built_in += [ServedName(kind.served, *kind.built_in) for kind in _kinds.values() if kind.built_in is not None]
    return [*app.served(), *built_in]


def _find(kind: str, app: App, name: str, version: str | None) -> Runnable:
    known = _built_in.get((kind, name))
    if known is not None and version in (None, known.exact_version):
        return known
    if kind != ORCHESTRATION:
        raise UnknownNameError(f"this version of the package runs no '{name}' in version {version}")
    return app.find_orchestrator(name, version)


_kinds = {
    ORCHESTRATION: InstanceKind(
        OrchestratorDefinition.kind, functools.partial(_find, ORCHESTRATION), _orchestration_runner
    )
}


def register_kind(kind: str, how: InstanceKind) -> None:
    """Say how instances of a kind are run. Features call it for their own. Raises ValueError for a kind that is taken."""
    if _kinds.setdefault(kind, how) is not how:
        raise ValueError(f"the kind '{kind}' of instances belongs to another feature")


def served_as(key: InstanceKey) -> str:
    """Return what workers announce what an instance runs as; of a kind of which nothing is known here, the kind."""
    return _kinds[key.kind].served if key.kind in _kinds else key.kind


def kind_of(key: InstanceKey) -> InstanceKind:
    """Return how an instance is run. Raises UnknownNameError for a kind of which nothing is known here."""
    found = _kinds.get(key.kind)
    if found is None:
        raise UnknownNameError(f"'{key.id}' is an instance of the kind '{key.kind}', which this version does not know")
    return found
