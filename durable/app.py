"""The registry: an `App` knows the activities and orchestrators of a program by name and version.

Its decorators note a frozen definition and return the function itself, so that a unit test calls it as is. A
definition says all that others need: how to call the function, what its input and result are, and the declared options.
Names are looked up in an app; functions are looked up by identity, first in an app and then by what decorators noted on
the function (`definition_of`), which is how a client without an app knows the name behind a function.

Invariant: every change of an app is made as a whole or not at all. A refused registration or `include` leaves no trace.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar, overload

from durable.errors import DuplicateNameError, InvalidInputError, UnknownNameError
from durable.features import AppFeatures, FeatureT
from durable.signatures import (
    EMPTY,
    AnyFunction,
    Signature,
    Style,
    called,
    default_name,
    identity_of,
    read_activity,
    read_orchestrator,
)
from durable.versions import VersionKey, canonical_version, version_key

if TYPE_CHECKING:
    from durable.retry import RetryPolicy

DEFAULT_QUEUE: Final = "default"

NAME_BYTES_MAX: Final = 512
"""The limit of instance ids; one figure for everything that is a key in a store."""

SECONDS_MAX: Final = 1e12
"""About 30,000 years: within every timedelta; what takes longer has no limit."""

_NAMES_SHOWN_MAX: Final = 20

_NOTES: Final = "__durable_definitions__"

_USES: Final = {
    "activity": "it is called inside an orchestrator, by ctx.call_activity(...), and that orchestrator is started",
    "orchestrator": "inside another one it is called by ctx.call_sub_orchestrator(...)",
}

F = TypeVar("F", bound=AnyFunction)
D = TypeVar("D", bound="Definition")


# ---- options


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityOptions:
    """What a declaration of an activity says about running it; None: nothing. A call overrides it.

    `timeout` limits one attempt from its start, `heartbeat_timeout` the time from beat to beat: timedeltas, or seconds. At
    most `max_concurrency` run at a time, and at most `rate` start within `per`; with `key`, each limit holds for each value
    of `key(input)`.
    """

    retry_policy: RetryPolicy | None = None
    timeout: timedelta | float | None = None
    heartbeat_timeout: timedelta | float | None = None
    queue: str = DEFAULT_QUEUE
    max_concurrency: int | None = None
    rate: int | None = None
    per: timedelta | None = None
    key: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        _check_retry_policy(self.retry_policy)
        for option in ("timeout", "heartbeat_timeout"):
            object.__setattr__(self, option, _span(getattr(self, option)))
        for option in ("timeout", "heartbeat_timeout", "per"):
            _check_span(option, getattr(self, option))
        for option in ("max_concurrency", "rate"):
            _check_count(option, getattr(self, option))
        check_name("queue", self.queue)
        if (self.rate is None) != (self.per is None):
            given, missing = ("per", "rate") if self.rate is None else ("rate", "per")
            raise ValueError(
                f"{given}= was given without {missing}=: a rate is both, rate=10, per=timedelta(minutes=1)"
            )
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key must be a function of the input, not {self.key!r}")
        if self.key is not None and self.max_concurrency is None and self.rate is None:
            raise ValueError("key= was given without a limit to divide: add max_concurrency=, or rate= and per=")


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestratorOptions:
    """What a declaration of an orchestrator says about running it; None: nothing.

    `retain`: how long a finished instance is kept; it is the declaring app's where the decorator says nothing.
    """

    retry_policy: RetryPolicy | None = None
    retain: timedelta | None = None

    def __post_init__(self) -> None:
        _check_retry_policy(self.retry_policy)
        _check_retain(self.retain)


def check_name(what: str, name: object) -> None:
    """Refuse what cannot be a name in every store: TypeError for no string, ValueError for a bad one."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, not {name!r}")
    if not name.strip() or "\0" in name:
        raise ValueError(f"{what} must not be empty, blank or contain a NUL: {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be valid Unicode: {name!r}") from error
    if size > NAME_BYTES_MAX:
        raise ValueError(f"{what} of {size} bytes is over the limit of {NAME_BYTES_MAX}: {name[:40]!r}…")


def _span(value: object) -> object:
    """Return seconds as a timedelta, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return timedelta(seconds=max(-SECONDS_MAX, min(value, SECONDS_MAX)))


def _check_span(option: str, value: object) -> None:
    if value is not None and not isinstance(value, timedelta):
        raise TypeError(f"{option} must be a timedelta, not {value!r}: write timedelta(seconds=…)")
    if value is not None and value <= timedelta(0):
        raise ValueError(f"{option} must be more than 0, not {value!r}")


def _check_count(option: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{option} must be an int, not {value!r}")
    if value is not None and value < 1:
        raise ValueError(f"{option} must be at least 1, not {value!r}")


def _check_retain(value: object) -> None:
    # Zero is allowed: a finished instance may go at once.
    if value != timedelta(0):
        _check_span("retain", value)


def _check_retry_policy(value: object) -> None:
    if value is not None and not hasattr(value, "max_number_of_attempts"):
        raise TypeError(f"retry_policy must be a RetryPolicy, not {value!r}")


# ---- definitions


class ServedName(NamedTuple):
    """Something that a worker with this app can run. `version` is in canonical spelling, "0" for none."""

    kind: str
    name: str
    version: str


@dataclasses.dataclass(frozen=True, eq=False)
class Definition:
    """A registered function: what it is called, how it is called, and what goes in and comes out."""

    name: str
    version: str | None
    function: AnyFunction
    signature: Signature = dataclasses.field(repr=False)
    options: ActivityOptions | OrchestratorOptions

    kind: ClassVar[str]
    plural: ClassVar[str]

    @functools.cached_property
    def exact_version(self) -> str:
        """The version in its one canonical spelling, "0" for none; looking it up finds this definition again."""
        return canonical_version(self.version)

    @functools.cached_property
    def version_key(self) -> VersionKey:
        """What the version compares as."""
        return version_key(self.version)

    @property
    def place(self) -> str:
        """Where the function is written, as `file:line`."""
        return self.signature.place

    @functools.cached_property
    def style(self) -> Style:
        return self.signature.style

    @functools.cached_property
    def is_async(self) -> bool:
        return self.signature.style is Style.ASYNC

    @functools.cached_property
    def takes_context(self) -> bool:
        return self.signature.takes_context

    @functools.cached_property
    def takes_input(self) -> bool:
        return self.signature.input_parameter is not None

    @functools.cached_property
    def input_annotation(self) -> Any:
        """The input's type, or `inspect.Parameter.empty`."""
        return self.signature.input_annotation

    @functools.cached_property
    def input_default(self) -> Any:
        """The default of the input parameter, or `inspect.Parameter.empty`."""
        return self.signature.input_default

    @functools.cached_property
    def result_annotation(self) -> Any:
        """The type of what a call finally gives, or `inspect.Parameter.empty`."""
        return self.signature.result_annotation

    @functools.cached_property
    def has_default_input(self) -> bool:
        """Whether "no input" is answered by the parameter's own default, which is taken as it is."""
        return self.input_default is not EMPTY

    def default_input(self) -> Any:
        """Return what the function gets for "no input" (and for None, which is the same): its default, else None."""
        return self.input_default if self.has_default_input else None

    def check_accepts(self, value: object) -> None:
        """Raise InvalidInputError for a value where the function takes none. The type is not looked at."""
        if value is not None and not self.takes_input:
            found = type(value).__name__
            raise InvalidInputError(f"{self} takes no input, but was given a {found}: leave it out, or add a parameter")

    def arguments(self, context: object, value: object) -> tuple[Any, ...]:
        """Return the positional arguments of a call: what the function takes of context and input, in its order."""
        return (context,) * self.takes_context + (value,) * self.takes_input

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return f"{self.kind} '{self.name}'{version} ({self.place})"


@dataclasses.dataclass(frozen=True, eq=False)
class ActivityDefinition(Definition):
    """A registered activity."""

    options: ActivityOptions

    kind: ClassVar[str] = "activity"
    plural: ClassVar[str] = "activities"


@dataclasses.dataclass(frozen=True, eq=False)
class OrchestratorDefinition(Definition):
    """A registered orchestrator."""

    options: OrchestratorOptions

    kind: ClassVar[str] = "orchestrator"
    plural: ClassVar[str] = "orchestrators"


# ---- what decorators note on a function


def _note(function: AnyFunction, definition: Definition) -> None:
    carrier = function.__func__ if inspect.ismethod(function) else function
    # A new tuple each time: functools.wraps copies the reference to a wrapper, which must not see what is added later.
    notes = (*getattr(carrier, _NOTES, ()), definition)
    try:
        setattr(carrier, _NOTES, notes)
    except (AttributeError, TypeError):
        pass  # a builtin, or an object with slots: only the apps that registered it know it


def _noted(function: AnyFunction, kind: type[D]) -> list[D]:
    """Return the definitions of a kind noted on a function, its own; or else those of the function that it wraps."""
    notes = getattr(function, _NOTES, ())
    found = [note for note in notes if isinstance(note, kind)] if isinstance(notes, tuple) else []
    own = [note for note in found if identity_of(note.function) == identity_of(function)]
    # Another object's bound method carries the same notes, but is another function.
    return own or ([] if inspect.ismethod(function) else found)


@overload
def definition_of(function: AnyFunction) -> ActivityDefinition | OrchestratorDefinition: ...
@overload
def definition_of(function: AnyFunction, kind: type[D]) -> D: ...
def definition_of(function: AnyFunction, kind: type[Definition] = Definition) -> Definition:
    """Return what decorators noted on a function, without any app; of several versions the newest.

    Raises UnknownNameError for a function that was never decorated as this kind, or under more than one name.
    """
    noted = _noted(function, kind)
    names = sorted({definition.name for definition in noted})
    if len(names) == 1:
        return max(noted, key=lambda definition: definition.version_key)
    if names:
        raise UnknownNameError(f"{called(function)} has several names, {', '.join(names)}: pass one of them instead")
    if of_other_kinds := _noted(function, Definition):
        raise UnknownNameError(f"{of_other_kinds[0]} is no {kind.kind}: {_USES[of_other_kinds[0].kind]}")
    remedy = "@app.activity or @app.orchestrator" if kind is Definition else f"@app.{kind.kind}"
    raise UnknownNameError(f"{called(function)} is not registered: decorate it with {remedy}, or pass a name instead")


# ---- the registry of one kind


class _Catalogue(Generic[D]):
    """The definitions of one kind, by name and version and by function."""

    def __init__(self, kind: type[D]) -> None:
        self._kind = kind
        self._by_name: dict[str, dict[VersionKey, D]] = {}
        self._newest: dict[str, D] = {}
        self._by_function: dict[tuple[int, ...], D] = {}
        self._in_order: list[D] = []

    def __iter__(self) -> Iterator[D]:
        """Yield all definitions in the order of registration, which `of` goes by."""
        return iter(self._in_order)

    def by_name(self) -> tuple[D, ...]:
        """Return all definitions, sorted by name and version."""
        return tuple(sorted(self, key=lambda definition: (definition.name, definition.version_key)))

    def add(self, definition: D) -> None:
        """Add a definition. The very same one again is harmless; another under its name and version is refused."""
        known = self._by_name.get(definition.name, {}).get(definition.version_key)
        if known is None:
            self._enter(definition)
        elif identity_of(known.function) != identity_of(definition.function):
            raise DuplicateNameError(
                f"two {self._kind.plural} under one name and version: {known} and {definition}; "
                "give one of them another name= or version="
            )
        elif known.options != definition.options:
            raise DuplicateNameError(f"{definition} is already registered, with other options: decorate it once")

    def _enter(self, definition: D) -> None:
        name, function = definition.name, identity_of(definition.function)
        self._in_order.append(definition)
        self._by_name.setdefault(name, {})[definition.version_key] = definition
        if definition.version_key >= self._newest.get(name, definition).version_key:
            self._newest[name] = definition
        first = self._by_function.get(function, definition)
        if first.name == name and definition.version_key >= first.version_key:
            self._by_function[function] = definition

    def merged(self, other: _Catalogue[D]) -> _Catalogue[D]:
        """Return a new catalogue of both. Raises DuplicateNameError where they contradict each other."""
        both = _Catalogue(self._kind)
        for definition in (*self, *other):
            both.add(definition)
        return both

    def versions(self, name: str) -> list[D]:
        """Return the definitions under a name, oldest version first."""
        versions = self._by_name.get(name, {})
        return [versions[key] for key in sorted(versions)]

    def get(self, name: str, version: str | None) -> D | None:
        """Return the definition of a name in that version, or in the newest if the version is None."""
        if version is None:
            return self._newest.get(name)
        return self._by_name.get(name, {}).get(version_key(version))

    def of(self, function: AnyFunction) -> D | None:
        """Return the definition of this very function; of several, the newest under the name that it was given first."""
        return self._by_function.get(identity_of(function))

    def lookup_failure(self, name: str, version: str | None) -> str:
        """Return why `get` gave None, and what to do."""
        versions = ", ".join(definition.exact_version for definition in self.versions(name))
        if versions:
            return (
                f"{self._kind.kind} '{name}' is registered in version {versions}, but not in {version}: "
                "keep an old version registered for as long as instances need it"
            )
        close = difflib.get_close_matches(name, self._by_name, n=3)
        guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        shown = ", ".join(map(repr, sorted(self._by_name)[:_NAMES_SHOWN_MAX])) or "none"
        more = ", …" if len(self._by_name) > _NAMES_SHOWN_MAX else ""
        return (
            f"no {self._kind.kind} {name!r} is registered with this app.{guess} Known {self._kind.plural}: {shown}{more}. "
            f"Decorate it with @app.{self._kind.kind}, import its module before the lookup, or include its app"
        )


# ---- the app


class App(AppFeatures):
    """A registry of activities and orchestrators. Made once, filled when modules are imported, given to workers.

    `retain`: how long finished instances are kept where the orchestrator does not say; None: until they are purged. Workers
    remove them then, with all that belongs to them.
    """

    def __init__(self, *, retain: timedelta | None = None) -> None:
        _check_retain(retain)
        self.retain: Final = retain
        self._activities = _Catalogue(ActivityDefinition)
        self._orchestrators = _Catalogue(OrchestratorDefinition)
        self._features: dict[type[Any], tuple[Callable[[], Any], Any]] = {}

    def __repr__(self) -> str:
        return f"<App: {len(self.activities)} activities, {len(self.orchestrators)} orchestrators>"

    @overload
    def activity(self, function: F, /) -> F: ...
    @overload
    def activity(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        version: str | None = None,
        retry_policy: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        queue: str = DEFAULT_QUEUE,
        max_concurrency: int | None = None,
        rate: int | None = None,
        per: timedelta | None = None,
        key: Callable[[Any], str] | None = None,
    ) -> Callable[[F], F]: ...
    def activity(
        self, function: F | None = None, /, *, name: str | None = None, version: str | None = None, **options: Any
    ) -> F | Callable[[F], F]:
        """Register an activity, bare or with options, and return the function itself.

        The name is the function's `__name__` unless given. See `ActivityOptions` for the options. Raises TypeError for a
        function that is no activity (see `durable.signatures`), ValueError for a bad option, DuplicateNameError.
        """
        declared = ActivityOptions(**options)
        _check_naming(name, version)

        def register(function: F) -> F:
            target = _function_of(function)
            signature = read_activity(target)
            named = default_name(target, "activity") if name is None else name
            definition = ActivityDefinition(named, version, target, signature, declared)
            self._activities.add(definition)
            _note(target, definition)
            return function

        return register if function is None else register(function)

    @overload
    def orchestrator(self, function: F, /) -> F: ...
    @overload
    def orchestrator(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        version: str | None = None,
        retry_policy: RetryPolicy | None = None,
        retain: timedelta | None = None,
    ) -> Callable[[F], F]: ...
    def orchestrator(
        self, function: F | None = None, /, *, name: str | None = None, version: str | None = None, **options: Any
    ) -> F | Callable[[F], F]:
        """Register an orchestrator, bare or with options, and return the function itself.

        The name is the function's `__name__` unless given. `retry_policy` is for calls of it as a child. Raises TypeError
        for a function that is no orchestrator, ValueError for a bad option, DuplicateNameError.
        """
        declared = OrchestratorOptions(**options)
        if declared.retain is None:
            declared = dataclasses.replace(declared, retain=self.retain)
        _check_naming(name, version)

        def register(function: F) -> F:
            target = _function_of(function)
            signature = read_orchestrator(target)
            named = default_name(target, "orchestrator") if name is None else name
            definition = OrchestratorDefinition(named, version, target, signature, declared)
            self._orchestrators.add(definition)
            _note(target, definition)
            return function

        return register if function is None else register(function)

    def include(self, other: App) -> None:
        """Register all that another app holds now, with the features' part of it; all of it, or on an error nothing.

        What is registered with the other app later is not seen. Raises DuplicateNameError.
        """
        if not isinstance(other, App):
            raise TypeError(f"include takes an App, not {other!r}")
        activities = self._activities.merged(other._activities)
        orchestrators = self._orchestrators.merged(other._orchestrators)
        features = dict(self._features)
        for key, (make, theirs) in other._features.items():
            ours = features[key][1] if key in features else make()
            features[key] = (make, ours.merged(theirs))
        self._activities, self._orchestrators, self._features = activities, orchestrators, features

    def feature(self, key: type[FeatureT], make: Callable[[], FeatureT]) -> FeatureT:
        """Return what a feature keeps in this app, made by `make` when first asked for.

        Ask each time instead of keeping the answer: `include` replaces it.
        """
        if key not in self._features:
            self._features[key] = (make, make())
        found = self._features[key][1]
        assert isinstance(found, key)
        return found

    # ---- looking up

    @property
    def activities(self) -> tuple[ActivityDefinition, ...]:
        """All activities, sorted by name and version."""
        return self._activities.by_name()

    @property
    def orchestrators(self) -> tuple[OrchestratorDefinition, ...]:
        """All orchestrators, sorted by name and version."""
        return self._orchestrators.by_name()

    def find_activity(self, name: str, version: str | None = None) -> ActivityDefinition:
        """Return an activity by name, in the newest version if none is given. Raises UnknownNameError."""
        return _found(self._activities, name, version, self._orchestrators)

    def find_orchestrator(self, name: str, version: str | None = None) -> OrchestratorDefinition:
        """Return an orchestrator by name, in the newest version if none is given. Raises UnknownNameError."""
        return _found(self._orchestrators, name, version, self._activities)

    def newest(self, name: str) -> OrchestratorDefinition:
        """Return an orchestrator in the version that a start or continue-as-new takes unless pinned."""
        return self.find_orchestrator(name)

    def activity_of(self, target: AnyFunction | str) -> ActivityDefinition | None:
        """Return what a call of `target` means: a function's own definition, or a name's newest.

        None for a name that this app does not know: another worker's app may. A function that this app does not know
        is looked up in what other apps' decorators noted on it; one that no app knows is an UnknownNameError.
        """
        return _meant(self._activities, target, ActivityDefinition)

    def orchestrator_of(self, target: AnyFunction | str) -> OrchestratorDefinition | None:
        """Return what a start of `target` means: a function's own definition, or a name's newest. As `activity_of`."""
        return _meant(self._orchestrators, target, OrchestratorDefinition)

    def served(self) -> list[ServedName]:
        """Return all that a worker with this app can run, sorted by kind, name and version, for its lease to announce."""
        definitions = [*self._activities, *self._orchestrators]
        names = [ServedName(d.kind, d.name, d.exact_version) for d in definitions]
        for _, feature in self._features.values():
            names += feature.served()
        return sorted(names, key=lambda served: (served.kind, served.name, version_key(served.version)))


def _check_naming(name: object, version: str | None) -> None:
    if name is not None:
        check_name("name", name)
    version_key(version)


def _function_of(function: Any) -> AnyFunction:
    """Return what the class attribute will be where a decorator stands above @staticmethod; else the function itself."""
    return function.__func__ if isinstance(function, staticmethod) else function


def _found(catalogue: _Catalogue[D], name: str, version: str | None, others: _Catalogue[Any]) -> D:
    definition = catalogue.get(name, version)
    if definition is not None:
        return definition
    elsewhere = others.get(name, None)
    hint = "" if elsewhere is None else f". That name is an {elsewhere}"
    raise UnknownNameError(f"{catalogue.lookup_failure(name, version)}{hint}")


def _meant(catalogue: _Catalogue[D], target: AnyFunction | str, kind: type[D]) -> D | None:
    if isinstance(target, str):
        return catalogue.get(target, None)
    own = catalogue.of(target)
    if own is not None:
        return own
    # The wrapper that functools.wraps made around a registered function carries its notes, and means it.
    wrapped = map(catalogue.of, [definition.function for definition in _noted(target, kind)])
    return next(filter(None, wrapped), None) or definition_of(target, kind)
