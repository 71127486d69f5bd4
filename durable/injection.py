"""What a worker brings along for its activities: databases, mail clients, settings.

An activity names what it needs as the default of a parameter, and stays a plain function that a unit test calls:

    @app.activity
    async def charge(order: Order, *, bank: Bank = Inject(Bank)) -> str: ...

    Worker(app, url, dependencies={Bank: connect_to_bank})
    await charge(Order(7), bank=FakeBank())

What a worker is given for a key is a value, or a factory that is called once, when the worker starts. A factory is a plain or
an async function, or a class; what it returns, if it is a context manager, is entered then and left when the worker has
stopped, in reverse order; a generator function that yields once is a context manager too. A factory may itself have
parameters with `Inject`. To inject a function, or a context manager that is not to be entered, give a value: `lambda: …`
returns the first, and an instance of the key is always taken as it is.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar, overload

from durable.errors import DurableError

T = TypeVar("T")

Key: TypeAlias = type | str
Dependencies: TypeAlias = Mapping[Any, Any]
"""By type or name: a value, or a factory. `Mapping` alone: mypy takes no abstract class for a `type`."""


class MissingDependencyError(DurableError):
    """An activity wants something that its worker was not given."""


class Partial(dict[Any, Any]):
    """Dependencies of which some may be missing: in a test, fakes stand in the place of what would need them."""


class Marker:
    """Stands in the place of a dependency as a parameter's default, and raises for whoever uses it as if it were one."""

    __slots__ = ("injected_key",)

    def __init__(self, key: Key) -> None:
        object.__setattr__(self, "injected_key", key)

    def __repr__(self) -> str:
        return f"Inject({key_name(self.injected_key)})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # for those who only look what kind of thing it is
        raise self._missing()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise self._missing()

    def _missing(self) -> MissingDependencyError:
        return MissingDependencyError(missing(self.injected_key, "this call"))


@overload
def Inject(key: type[T], /) -> T: ...
@overload
def Inject(key: str, /) -> Any: ...
def Inject(key: Any, /) -> Any:  # noqa: N802 (stands where a class's call would, and reads as one)
    """Return the default of a parameter that the worker fills: by a type, or by a name.

    Typed as what will be there. Raises TypeError for a key that is neither. A protocol or an abstract class is a key too,
    though mypy wants a comment there.
    """
    if not isinstance(key, str) and not inspect.isclass(key):
        raise TypeError(f"Inject takes a type or a name, not {key!r:.200}")
    return Marker(key)


def key_name(key: Key) -> str:
    """Return a key as it reads in messages."""
    return repr(key) if isinstance(key, str) else key.__qualname__


def missing(key: Key, who: str) -> str:
    """Return what is said to whoever wants what nobody has given."""
    name = key_name(key)
    return (
        f"{who} was not given {name}: a worker has it by Worker(…, dependencies={{{name}: …}}), a test by "
        f"Environment(…, dependencies={{{name}: …}}), and a unit test passes it itself"
    )


def injected(parameters: Iterable[inspect.Parameter]) -> dict[str, Key]:
    """Return the keys of those parameters that a worker fills, by the parameter's name."""
    return {p.name: p.default.injected_key for p in parameters if isinstance(p.default, Marker)}


class Provided:
    """A worker's dependencies while it runs. Opened in its event loop, and closed there."""

    def __init__(self, given: Dependencies) -> None:
        """Raises TypeError for a key that is no type and no name."""
        for key in given:
            if not isinstance(key, str) and not inspect.isclass(key):
                raise TypeError(f"the keys of dependencies are types or names, not {key!r:.200}")
        self._given = dict(given)
        self._is_partial = isinstance(given, Partial)
        self._values: dict[Key, Any] = {}
        self._making: list[Key] = []
        self._stack = contextlib.AsyncExitStack()

    def check(self, who: str, wanted: Mapping[str, Key]) -> None:
        """Raise MissingDependencyError where something that is wanted was not given; not where some may be missing."""
        for key in wanted.values():
            if key not in self._given and not self._is_partial:
                raise MissingDependencyError(missing(key, who))

    async def open(self) -> None:
        """Make everything, each after what it needs itself. Raises what a factory raises, with the others closed again."""
        try:
            for key in self._given:
                await self._make(key)
        except BaseException as error:
            await self._stack.__aexit__(type(error), error, error.__traceback__)
            raise

    async def close(self) -> None:
        """Leave what was entered, in reverse. Raises what leaving raises."""
        self._values.clear()
        await self._stack.aclose()

    def arguments(self, wanted: Mapping[str, Key]) -> dict[str, Any]:
        """Return the arguments of a call, by name. What there is not is left to the parameter's default, which raises."""
        return {name: self._values[key] for name, key in wanted.items() if key in self._values}

    async def _make(self, key: Key) -> Any:
        if key in self._values:
            return self._values[key]
        given = self._given[key]
        if key in self._making:
            circle = " → ".join(key_name(one) for one in (*self._making[self._making.index(key) :], key))
            raise DurableError(f"dependencies need each other in a circle: {circle}")
        self._making.append(key)
        value = given if _is_value(key, given) else await self._made_by(key, given)
        self._making.pop()
        self._values[key] = value
        return value

    async def _made_by(self, key: Key, factory: Callable[..., Any]) -> Any:
        wanted = injected(_parameters(factory))
        self.check(f"the factory of {key_name(key)}", wanted)
        arguments = {name: await self._make(needed) for name, needed in wanted.items() if needed in self._given}
        if inspect.isasyncgenfunction(factory):
            factory = contextlib.asynccontextmanager(factory)
        elif inspect.isgeneratorfunction(factory):
            factory = contextlib.contextmanager(factory)
        made = factory(**arguments)
        if inspect.isawaitable(made) and not hasattr(made, "__aenter__"):
            made = await made
        if hasattr(type(made), "__aenter__"):
            return await self._stack.enter_async_context(made)
        if hasattr(type(made), "__enter__"):
            return self._stack.enter_context(made)
        return made


def _is_value(key: Key, given: Any) -> bool:
    if not callable(given):
        return True
    try:
        return inspect.isclass(key) and isinstance(given, key)
    except TypeError:  # a protocol whose instances cannot be told
        return False


def _parameters(factory: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return ()  # a built-in class, which has no parameters of ours
