"""Which entities an app has: their classes, what their state is, and which operations they offer.

An operation is a public method of the class or of one that it inherits from, but not of pydantic's or Python's own. A method
whose name begins with an underscore is none, nor is a static or class method, or a property.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from durable.app import App, Definition, OrchestratorOptions, ServedName, check_name
from durable.entities.states import StateForm
from durable.errors import DuplicateNameError, UnknownNameError
from durable.signatures import AnyFunction, called, read_operation
from durable.versions import UNVERSIONED

_NOTES: Final = "__durable_entities__"

_FOREIGN: Final = ("builtins", "pydantic", "typing", "typing_extensions", "abc", "enum")
"""Where base classes come from whose methods are nobody's operations."""


@dataclasses.dataclass(frozen=True, eq=False)
class OperationDefinition(Definition):
    """An operation of an entity: its method, and what goes in and comes out. Called `Counter.add`."""

    options: OrchestratorOptions = dataclasses.field(default_factory=OrchestratorOptions)

    kind: ClassVar[str] = "operation"
    plural: ClassVar[str] = "operations"


@dataclasses.dataclass(frozen=True, eq=False)
class EntityDefinition:
    """A registered class. `form` makes its objects and their stored form; `operations` are by name."""

    name: str
    cls: type
    form: StateForm
    operations: Mapping[str, OperationDefinition]

    @property
    def exact_version(self) -> str:
        """Entities have no versions: a class may change at any time, and its next operation runs what it is then."""
        return UNVERSIONED

    def find(self, operation: str) -> OperationDefinition:
        """Return an operation by name. Raises UnknownNameError."""
        found = self.operations.get(operation)
        if found is None:
            close = difflib.get_close_matches(operation, self.operations, n=3)
            guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            shown = ", ".join(sorted(self.operations)) or "none"
            raise UnknownNameError(f"{self} has no operation '{operation:.100}'.{guess} Its operations: {shown}")
        return found

    def of(self, function: AnyFunction) -> OperationDefinition | None:
        """Return the operation that a method is; None for one of another class."""
        found = self.operations.get(getattr(function, "__name__", ""))
        if found is not None and found.function is function:
            return found
        return next((one for one in self.operations.values() if one.function is function), None)

    def __str__(self) -> str:
        return f"entity '{self.name}' ({self.cls.__module__}.{self.cls.__qualname__})"


class Entities:
    """The entities of an app, by name. What an app keeps for this feature."""

    def __init__(self) -> None:
        self._by_name: dict[str, EntityDefinition] = {}

    def __iter__(self) -> Iterator[EntityDefinition]:
        return iter(self._by_name.values())

    def add(self, definition: EntityDefinition) -> None:
        """Add a definition. The same class again is harmless. Raises DuplicateNameError for another one under its name."""
        known = self._by_name.setdefault(definition.name, definition)
        if known.cls is not definition.cls:
            raise DuplicateNameError(
                f"two entities under one name: {known} and {definition}; give one of them another name="
            )

    def get(self, name: str) -> EntityDefinition | None:
        """Return an entity by name; None for one that another worker's app may have."""
        return self._by_name.get(name)

    def find(self, name: str) -> EntityDefinition:
        """Return an entity by name. Raises UnknownNameError."""
        found = self.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self._by_name, n=3)
            guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            shown = ", ".join(map(repr, sorted(self._by_name))) or "none"
            raise UnknownNameError(
                f"no entity '{name}' is registered with this app.{guess} Known entities: {shown}. Decorate its class with "
                "@app.entity, import its module before the lookup, or include its app"
            )
        return found

    def merged(self, other: Entities) -> Entities:
        """See `durable.features.Feature`."""
        both = Entities()
        for definition in (*self, *other):
            both.add(definition)
        return both

    def served(self) -> Iterable[ServedName]:
        """See `durable.features.Feature`."""
        return [ServedName(SERVED, name, UNVERSIONED) for name in self._by_name]


SERVED: Final = "entity"
"""What workers announce entities as."""


def entities_of(app: App) -> Entities:
    """Return the entities of an app."""
    return app.feature(Entities, Entities)


def declare(app: App, cls: Any, name: str | None) -> Any:
    """Do what `App.entity` promises."""
    if name is not None:
        check_name("name", name)

    def register(kind: Any) -> Any:
        if not inspect.isclass(kind):
            remedy = " (options are given by keyword: @app.entity(name=…))" if isinstance(kind, str) else ""
            raise TypeError(
                f"an entity is a class, whose fields are its state and whose methods are its operations, not {kind!r}{remedy}"
            )
        named = kind.__name__ if name is None else name
        operations = {
            method: OperationDefinition(f"{named}.{method}", None, function, read_operation(function))
            for method, function in _operations(kind)
        }
        definition = EntityDefinition(named, kind, StateForm(kind, named), operations)
        entities_of(app).add(definition)
        setattr(kind, _NOTES, (*_noted(kind), definition))
        return kind

    return register if cls is None else register(cls)


def _operations(cls: type) -> list[tuple[str, Callable[..., Any]]]:
    found: dict[str, Callable[..., Any]] = {}
    foreign = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in _FOREIGN]
    for base in reversed([base for base in cls.__mro__ if base not in foreign]):
        for name, member in vars(base).items():
            is_public = not name.startswith("_") and not any(hasattr(other, name) for other in foreign)
            if is_public and inspect.isfunction(member):
                found[name] = member
            else:
                found.pop(name, None)  # it hides one that is inherited
    return list(found.items())


def _noted(cls: type) -> tuple[EntityDefinition, ...]:
    """Return the definitions of a class itself; a subclass is another entity, or none."""
    notes: tuple[EntityDefinition, ...] = vars(cls).get(_NOTES, ())
    return notes


def definition_of(cls: type) -> EntityDefinition:
    """Return what a decorator noted on a class, without any app.

    Raises UnknownNameError for a class that was never decorated, or under more than one name.
    """
    noted = _noted(cls)
    names = sorted({definition.name for definition in noted})
    if len(names) > 1:
        raise UnknownNameError(
            f"class '{cls.__qualname__}' is an entity of several names, {', '.join(names)}: give one of them instead"
        )
    if not noted:
        raise UnknownNameError(
            f"class '{cls.__qualname__}' ({cls.__module__}) is no entity: decorate it with @app.entity, or give a name"
        )
    return noted[-1]


def name_of(cls: type) -> str:
    """Return the name of an entity's class. Raises UnknownNameError as `definition_of`."""
    return definition_of(cls).name


def operation_of(
    operation: AnyFunction | str, definition: EntityDefinition | None, name: str
) -> tuple[str, OperationDefinition | None]:
    """Return the name of an operation; and the operation, where it was given as a function: then its types count.

    `definition` of the entity called `name`, where it is known. A name is not checked: the entity's own worker does that.
    Raises UnknownNameError for a method of another class, TypeError for what is no operation.
    """
    if isinstance(operation, str):
        check_name("the name of an operation", operation)
        return operation, None
    if not callable(operation):
        raise TypeError(f"an operation is given as a method of the class or its name, not {operation!r:.200}")
    function = operation.__func__ if inspect.ismethod(operation) else operation
    if definition is None:  # the entity is known by its name only, and by nobody here
        method = getattr(function, "__name__", "")
        return method, OperationDefinition(f"{name}.{method}", None, function, read_operation(function))
    found = definition.of(function)
    if found is None:
        raise UnknownNameError(f"{called(operation)} is no operation of {definition}")
    return found.name.rpartition(".")[2], found
