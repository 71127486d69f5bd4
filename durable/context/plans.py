"""What can be known of a call before it is made, worked out once for each definition and shared by all instances.

A value that does not fit, cannot be stored or is over a limit is the request's failure: the task fails, nothing is recorded
for it, and every replay finds the same. Where there is no task to fail (`start_orchestration`, `raise_event`) it is raised.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

from durable.app import ActivityDefinition, App, Definition, OrchestratorDefinition, check_name
from durable.app import ActivityOptions as DeclaredOptions
from durable.context.options import limit_us
from durable.errors import DurableError, StoredValueError, TaskFailedError
from durable.events import ActivityOptions, ActivityScheduled, HistoryEvent, Limit
from durable.failures import describe
from durable.ids import check_limit_key
from durable.payloads import PayloadError, Sealer, check, decode, encode
from durable.records import reason_of
from durable.retry import RetryPolicy
from durable.versions import canonical_version

NO_VALUE: Final = encode(None)
"""The payload of None, for where a payload was left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A target of calls. `function` tells whether it was given as one, so that its types count."""

    name: str
    version: str | None
    definition: Definition | None
    function: bool
    retry_policy: RetryPolicy | None
    options: ActivityOptions
    what_input: str
    read_result: Callable[[Any], Any]

    def encode_input(self, value: Any) -> bytes | None:
        """Return the payload of an input, None for none. Raises InvalidInputError, PayloadError, LimitExceededError."""
        definition = self.definition
        if definition is None or not self.function:
            return None if value is None else encode(value, what=self.what_input)
        if value is None and (definition.has_default_input or not definition.takes_input):
            return None
        definition.check_accepts(value)
        plain = check(value, definition.input_annotation, what=self.what_input)
        return None if value is None else plain

    def limited(self, options: ActivityOptions, plain: bytes | None, recorded: HistoryEvent | None) -> ActivityOptions:
        """Return the options of a call with this input, with the key of its limit where that is divided by one.

        While replaying it is the key that is on record: what was asked for is limited by what it was then.
        """
        limit = options.limit
        if limit is None or not isinstance(self.definition, ActivityDefinition) or self.definition.options.key is None:
            return options
        was = recorded.options.limit if isinstance(recorded, ActivityScheduled) else None
        if was is not None:
            return dataclasses.replace(options, limit=limit._replace(key=was.key, error=was.error))
        try:
            key = check_limit_key(self.definition.options.key(self._as_received(self.definition, plain)))
        except Exception as error:  # noqa: BLE001 (a user's function may raise anything)
            text = f"the key= of activity '{self.name}' gave no key for this input: {reason_of(error)}"
            return dataclasses.replace(options, limit=limit._replace(error=text))
        return dataclasses.replace(options, limit=limit._replace(key=key))

    def _as_received(self, definition: ActivityDefinition, plain: bytes | None) -> Any:
        """Return an input as the activity gets it, whoever calls it and however."""
        if not definition.takes_input or (plain is None and definition.has_default_input):
            return definition.default_input()
        return decode(NO_VALUE if plain is None else plain, definition.input_annotation, what=self.what_input)


class Plans:
    """The plans of an app, made when first asked for. Results are read through `sealer`."""

    def __init__(self, app: App, sealer: Sealer) -> None:
        self.app = app
        self._sealer = sealer
        self._known: dict[tuple[Definition, bool], Plan] = {}

    def activity(self, target: Callable[..., Any] | str) -> Plan:
        """Return what a call of an activity means. Raises UnknownNameError for a function that no app knows.

        A function means its own version. A name means the newest that this app knows; one that it does not know is for
        another worker.
        """
        return self._plan("activity", target, self.app.activity_of(target))

    def orchestrator(self, target: Callable[..., Any] | str, version: str | None) -> Plan:
        """Return what a start of an orchestration means, in that version, or in the one that `activity` tells of."""
        definition = self.app.orchestrator_of(target)
        plan = self._plan("orchestrator", target, definition)
        if version is None:
            return plan
        exact = canonical_version(version)
        if exact == plan.version or definition is None:
            return dataclasses.replace(plan, version=exact)
        others = (found for found in self.app.orchestrators if found.name == plan.name and found.exact_version == exact)
        return dataclasses.replace(plan, version=exact, definition=next(others, None))

    def own(self, definition: ActivityDefinition | OrchestratorDefinition) -> Plan:
        """Return what a call or a start of this very definition means."""
        return self._plan(definition.kind, definition.function, definition)

    def _plan(self, kind: str, target: Callable[..., Any] | str, definition: Definition | None) -> Plan:
        by_function = not isinstance(target, str)
        if definition is None:
            check_name(f"{kind} name", target)
            return self._make(kind, str(target), None, by_function=False)
        plan = self._known.get((definition, by_function))
        if plan is None:
            plan = self._make(kind, definition.name, definition, by_function=by_function)
            self._known[definition, by_function] = plan
        return plan

    def _make(self, kind: str, name: str, definition: Definition | None, *, by_function: bool) -> Plan:
        options = ActivityOptions()
        if isinstance(definition, ActivityDefinition):
            declared = definition.options
            options = ActivityOptions(
                declared.queue,
                limit_us("timeout", declared.timeout),
                limit_us("heartbeat_timeout", declared.heartbeat_timeout),
                limit=_limit_of(declared),
            )
        annotation = definition.result_annotation if definition is not None and by_function else Any
        what = f"recorded result of {kind} '{name}'"
        return Plan(
            name=name,
            version=None if definition is None else definition.exact_version,
            definition=definition,
            function=by_function,
            retry_policy=None if definition is None else definition.options.retry_policy,
            options=options,
            what_input=f"input of {kind} '{name}'",
            read_result=functools.partial(_read, self._sealer, annotation, what),
        )

    def read(self, stored: bytes | None, annotation: Any, what: str) -> Any:
        """Return a recorded value. Raises StoredValueError, which stalls, for one that today's code cannot take."""
        return _read(self._sealer, annotation, what, stored)

    def decode(self, stored: bytes | None, annotation: Any, what: str) -> Any:
        """Return a stored value as the annotation makes it. Raises PayloadError."""
        return _decode(self._sealer, annotation, what, stored)

    def unseal(self, stored: bytes) -> bytes:
        """Return the plain form of what is stored. Raises PayloadError."""
        return self._sealer.unseal(stored)


def _read(sealer: Sealer, annotation: Any, what: str, stored: bytes | None) -> Any:
    try:
        return _decode(sealer, annotation, what, stored)
    except PayloadError as error:
        raise StoredValueError(
            f"{error}. It fitted when it was recorded: let the type take such values too, or deploy the change as a new "
            "version of the orchestrator"
        ) from error


def _decode(sealer: Sealer, annotation: Any, what: str, stored: bytes | None) -> Any:
    return decode(NO_VALUE if stored is None else sealer.unseal(stored), annotation, what=what)


def _limit_of(declared: DeclaredOptions) -> Limit | None:
    if declared.max_concurrency is None and declared.rate is None:
        return None
    return Limit(declared.max_concurrency, declared.rate, limit_us("per", declared.per))


def refusal(kind: type[TaskFailedError], error: Exception, task_name: str, instance_id: str) -> TaskFailedError:
    """Return what awaiting a request raises that fails before it is made: trying again would change nothing.

    It is a `kind`, and an InvalidInputError or whatever else of ours was wrong with the input: either is caught.
    """
    details = dataclasses.replace(describe(error), non_retryable=True)
    refused = _refusal_type(kind, type(error)) if isinstance(error, DurableError) else kind
    return refused(details, task_name=task_name, instance_id=instance_id)


_refusal_types: dict[tuple[type[Exception], type[Exception]], type[TaskFailedError]] = {}


def _refusal_type(kind: type[TaskFailedError], reason: type[DurableError]) -> type[TaskFailedError]:
    known = _refusal_types.get((kind, reason))
    if known is not None:
        return known

    def reduce(error: TaskFailedError) -> tuple[Any, ...]:  # as a `kind`: this class has no place to be found at
        return functools.partial(kind, task_name=error.task_name, instance_id=error.instance_id), (error.details,)

    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce__": reduce}
    made = _refusal_types[kind, reason] = type(kind.__name__, (kind, reason), named)
    return made
