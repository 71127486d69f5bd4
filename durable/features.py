"""What features have registered for the methods of `App`, `Client` and the contexts, which stand below them.

A feature's method there is one line: it hands on to what the feature registers when `durable/__init__` composes the package.
So `@app.entity` is found where users look for it, and no layer knows the one above.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypedDict, TypeVar, overload

if TYPE_CHECKING:
    from datetime import datetime

    from durable.app import App, ServedName
    from durable.client import Client
    from durable.http import HttpPolicy

C = TypeVar("C")
E = TypeVar("E")
F = TypeVar("F", bound=Callable[..., Any])

Preparation: TypeAlias = "Callable[[App, Client], Coroutine[Any, Any, None]]"

_registered: dict[str, Any] = {}


def register_feature(name: str, methods: object) -> None:
    """Register what stands behind the methods of a feature. Raises ValueError for a name that another has taken."""
    if _registered.setdefault(name, methods) is not methods:
        raise ValueError(f"two features are called '{name}'")


def feature(name: str) -> Any:
    """Return what a feature has registered."""
    assert name in _registered, f"the feature '{name}' registers itself when the package is imported"
    return _registered[name]


_preparations: list[Preparation] = []


def register_preparation(prepare: Preparation) -> None:
    """Let something be done whenever a worker that runs orchestrations starts, before it is ready."""
    if prepare not in _preparations:
        _preparations.append(prepare)


def preparations() -> Iterable[Preparation]:
    """Return what is to be done when a worker starts. What it raises keeps the worker from starting."""
    return tuple(_preparations)


class Feature(Protocol):
    """What a feature keeps in an app: its own registry, made on first use by `App.feature`."""

    def merged(self, other: Self) -> Self:
        """Return a new one that holds both, changing neither. Raises DuplicateNameError on a contradiction."""
        ...

    def served(self) -> Iterable[ServedName]:
        """Return what a worker can run because of this feature, beside activities and orchestrators."""
        ...


FeatureT = TypeVar("FeatureT", bound=Feature)


class EntityFilters(TypedDict, total=False):
    """What limits a listing of entities; all that are given must hold.

    `prefix`: of the key. `updated_after` is inclusive, `updated_before` exclusive; both aware.
    """

    prefix: str | None
    updated_after: datetime | None
    updated_before: datetime | None
    limit: int | None
    newest_first: bool


class AppFeatures:
    """The decorators of features, as methods of `App`."""

    @overload
    def entity(self, cls: type[C], /) -> type[C]: ...
    @overload
    def entity(self, cls: None = None, /, *, name: str | None = None) -> Callable[[type[C]], type[C]]: ...
    def entity(self, cls: type[C] | None = None, /, *, name: str | None = None) -> Any:
        """Register the class of an entity, bare or with a name, and return the class itself.

        Its state is its annotated fields with their defaults, or those of a dataclass or pydantic model; its operations are
        its public methods. The name is the class's `__name__` unless given. Raises TypeError for a class that cannot be an
        entity, ValueError for a bad name, DuplicateNameError.
        """
        return feature("entities").declare(self, cls, name)

    def cron(
        self,
        expression: str,
        *,
        timezone: str = "UTC",
        input: Any = None,  # noqa: A002 (the interface's name)
        id: str | None = None,  # noqa: A002 (as above)
    ) -> Callable[[F], F]:
        """Declare a schedule for an activity or an orchestrator, above or below its own decorator; return the function itself.

        `expression` has 5 fields, or 6 with seconds first, and is read in `timezone`. The schedule's id is the function's name
        unless given. Workers bring the store in step with it when they start; what an operator has changed meanwhile stays.
        Raises ValueError for an expression, a zone or an id that is none.
        """
        declare: Callable[[F], F] = feature("schedules").cron(self, expression, timezone=timezone, input=input, id=id)
        return declare

    def allow_http(self, policy: HttpPolicy) -> None:
        """Let orchestrators call what a policy allows, by `ctx.call_http`; without this they can call nothing.

        Raises DurableError where the extra `http` is not installed, with what to install, and if it was called before.
        """
        feature("http").allow(self, policy)
