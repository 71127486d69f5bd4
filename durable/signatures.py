"""How the registry reads a function: which parameter is the context, which the input, and what types they name.

Rules
* An activity is `f()`, `f(input)`, `f(ctx)` or `f(ctx, input)`. Of two parameters the first is the context; a single
  one is the context if it is annotated with an activity context, else the input.
* An orchestrator is `f(ctx)` or `f(ctx, input)`. An operation of an entity is a method, and for the rest as an activity.
* A parameter whose default is `Inject(…)` is filled by the worker, by name, and counts for nothing else; only an activity
  has them.
* Other keyword-only parameters with a default and `**kwargs` are left alone: the framework never fills them.
* Everything else is a TypeError at decoration that names the function, its place and the remedy.

An activity context, and so an entity's, is a class that has `__durable_activity_context__ = True`, itself or inherited. The
marker lets the registry know the contexts of the worker and of features without importing either.

Annotations are resolved at first use, since they may name what is defined further down in the module. One that cannot
be resolved then (its name is imported for type checking only) counts as missing, and only that one. The shape of a
function never depends on luck: where an annotation is out of reach, its text is looked at.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import hashlib
import inspect
import logging
import re
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar, Union

from durable.injection import Key, Marker, injected

EMPTY: Final = inspect.Parameter.empty
"""Stands for a missing annotation and a missing default, because None is a value of either."""

CONTEXT_MARKER: Final = "__durable_activity_context__"

AnyFunction: TypeAlias = Callable[..., Any]

_logger = logging.getLogger(__name__)

_ONE_INPUT: Final = "put what it needs into one input, for example a dataclass"
_SHAPES: Final = {
    "activity": "An activity is f(), f(input), f(ctx: ActivityContext) or f(ctx: ActivityContext, input)",
    "orchestrator": "An orchestrator is f(ctx) or f(ctx, input)",
    "handler": "A handler of a query or an update is f() or f(arg)",
    "operation": "An operation is f(self), f(self, input), f(self, ctx: EntityContext) or f(self, ctx: EntityContext, input)",
}

# How an activity context is recognised where its class is out of reach; the others are those of features.
_CONTEXT_NAMES: Final = ("ActivityContext", "JobContext", "EntityContext")

_SOME_OBJECT: Final = object()  # stands for the entity: a method is read as it is called

_Result = TypeVar("_Result")
_Orchestration: TypeAlias = Generator[Any, Any, _Result]

# What signatures need and programs often import for type checking only; a program's own names go first.
_FALLBACK_NAMES: Final[Mapping[str, Any]] = {
    "Orchestration": _Orchestration,
    "Generator": Generator,
    "Any": Any,
}


class Style(enum.Enum):
    """How a function is run. A PLAIN one may still hand back a generator or a coroutine that a wrapper made."""

    GENERATOR = "generator"
    ASYNC = "async"
    PLAIN = "plain"


# ---- the function itself


def body_of(function: Any) -> Any:
    """Return the innermost function: under partials, bound methods, callable objects and `functools.wraps`."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not inspect.isroutine(function) and not inspect.isclass(function) and callable(function):
            function = type(function).__call__
        else:
            return function


def place_of(function: Any) -> str:
    """Return where a function is written, as `file:line`."""
    code = getattr(body_of(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "built in"


def called(function: object) -> str:
    """Return a function's name and place, for messages; whatever was passed instead of a function, as it prints."""
    if not callable(function):
        return repr(function)
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"'{name}' ({place_of(function)})"


def code_digest(function: AnyFunction) -> bytes | None:
    """Return 8 bytes that tell what a function does, as it was compiled; None for what was not written in Python.

    Comments and place make no difference, layout hardly ever (a compiler that sees two lines may jump otherwise), another
    Python minor does. What it calls is not in it.
    """
    code = getattr(body_of(function), "__code__", None)
    if not isinstance(code, types.CodeType):
        return None
    found = hashlib.blake2b(digest_size=8)
    for part in _parts_of(code):
        found.update(b"%d:" % len(part) + part)
    return found.digest()


def _parts_of(code: types.CodeType) -> Iterator[bytes]:
    """Yield what a code object is made of, with the functions inside it."""
    yield code.co_code
    yield repr((code.co_name, code.co_argcount, code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts_of(constant)
        elif isinstance(constant, frozenset):  # which is in another order in each process
            yield repr(sorted(map(repr, constant))).encode()
        else:
            yield repr(constant).encode("utf-8", "surrogatepass")


def default_name(function: AnyFunction, kind: str) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise TypeError(f"{kind} {called(function)} has no name of its own: write app.{kind}(name=…)(function)")
    return name


def identity_of(function: AnyFunction) -> tuple[int, ...]:
    """Return what makes a function the same: a bound method is made anew at each access, but for the same two objects."""
    if isinstance(function, types.MethodType):
        return id(function.__self__), id(function.__func__)
    return (id(function),)


def style_of(function: AnyFunction) -> Style:
    """Return how the function is run, judged by the callable itself and not by what it wraps."""
    is_object = not inspect.isroutine(function) and not isinstance(function, functools.partial)
    target = type(function).__call__ if is_object else function
    if inspect.isgeneratorfunction(target):
        return Style.GENERATOR
    return Style.ASYNC if inspect.iscoroutinefunction(target) else Style.PLAIN


# ---- annotations


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The names that a function's annotations can see: its module's, and its enclosing functions' at decoration."""

    global_names: dict[str, Any]
    local_names: Mapping[str, Any]

    @classmethod
    def of(cls, function: AnyFunction, signature: inspect.Signature) -> Scope:
        """Return the scope of a function that is being decorated right now."""
        body = body_of(function)
        annotations = [parameter.annotation for parameter in signature.parameters.values()]
        return cls._seen_from(body, getattr(body, "__globals__", {}), [*annotations, signature.return_annotation])

    @classmethod
    def of_class(cls, kind: type) -> Scope:
        """Return the scope of the annotations in the body of a class that is being decorated right now."""
        module = sys.modules.get(kind.__module__)
        return cls._seen_from(kind, {} if module is None else vars(module), inspect.get_annotations(kind).values())

    @classmethod
    def _seen_from(cls, body: Any, global_names: dict[str, Any], annotations: Iterable[Any]) -> Scope:
        words = {word for annotation in annotations for word in _words(annotation)}
        return cls(global_names, dict(_enclosing_names(body, global_names, words)))

    def resolve(self, annotation: Any) -> Any:
        """Return the type that an annotation names. Raises whatever evaluating it raises, mostly NameError."""

        def carrier() -> None: ...

        carrier.__annotations__ = {"value": annotation}
        names = ChainMap(dict(self.local_names), self.global_names, dict(_FALLBACK_NAMES))
        hints = typing.get_type_hints(carrier, self.global_names, names, include_extras=True)
        return hints["value"]

    def names_context(self, annotation: Any) -> bool:
        """Tell whether an annotation is an activity context, by its text if it cannot be resolved."""
        try:
            return is_activity_context(self.resolve(annotation))
        except Exception:  # noqa: BLE001 - an annotation is the user's code and may raise anything
            return any(word.endswith(_CONTEXT_NAMES) for word in _words(annotation))


def _words(annotation: Any) -> list[str]:
    """Return the identifiers in an annotation's text, which need not be resolvable."""
    if annotation is EMPTY:
        return []
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.findall(r"[^\W\d]\w*", text)


def _enclosing_names(body: Any, global_names: dict[str, Any], words: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield those of `words` that the functions around `body`, still running, have as local variables.

    Annotations kept as text cannot reach the classes of an enclosing function in any other way. Outermost first, so that
    the nearest wins in a dict; only what the annotations name is kept, so that no frame is held alive.
    """
    qualified_name = getattr(body, "__qualname__", "")
    found: list[tuple[str, Any]] = []
    frame: types.FrameType | None = inspect.currentframe() if "<locals>" in qualified_name else None
    while frame is not None:
        encloses = qualified_name.startswith(f"{frame.f_code.co_qualname}.<locals>.")
        if encloses and frame.f_globals is global_names:
            found += [(name, value) for name, value in frame.f_locals.items() if name in words]
        frame = frame.f_back
    yield from reversed(found)


def is_activity_context(annotation: Any) -> bool:
    """Tell whether a resolved annotation is an activity context, also inside Annotated, Optional or a type variable."""
    if isinstance(annotation, TypeVar):
        return is_activity_context(annotation.__bound__)
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return is_activity_context(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(is_activity_context(member) for member in typing.get_args(annotation))
    # `is True`, because a mock would answer every attribute with something true.
    return getattr(origin or annotation, CONTEXT_MARKER, False) is True


def _result_of(annotation: Any, style: Style) -> Any:
    """Return what a call finally gives: the R of `Orchestration[R]`, the T of a plain `-> Awaitable[T]`."""
    if style is Style.ASYNC or annotation is EMPTY:
        return annotation
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    origin = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if origin in (collections.abc.Generator, collections.abc.Coroutine):
        result = arguments[2] if len(arguments) == 3 else EMPTY
    elif origin is collections.abc.Awaitable:
        result = arguments[0] if arguments else EMPTY
    else:
        result = EMPTY if style is Style.GENERATOR else annotation
    return EMPTY if isinstance(result, TypeVar) else result


# ---- the signature


@dataclasses.dataclass(frozen=True, eq=False)
class Signature:
    """What the registry knows of a function's parameters and result.

    `context_first` is None where only a lazily resolved annotation can tell whether the single parameter is the context.
    `injected`: the keys of what the worker fills in, by parameter.
    """

    place: str
    style: Style
    positional: tuple[inspect.Parameter, ...]
    return_annotation: Any
    scope: Scope
    context_first: bool | None
    injected: Mapping[str, Key]

    @functools.cached_property
    def takes_context(self) -> bool:
        """Whether the first positional parameter is the context."""
        if self.context_first is not None:
            return self.context_first
        return self.scope.names_context(self.positional[0].annotation)

    @functools.cached_property
    def context_names(self) -> frozenset[str]:
        """The names of the classes that the context's annotation names, and of their bases where they can be seen here."""
        if not self.takes_context:
            return frozenset()
        annotation = self.positional[0].annotation
        bases = getattr(self._resolved(annotation), "__mro__", ())
        return frozenset((*_words(annotation), *(base.__name__ for base in bases)))

    @functools.cached_property
    def context_class(self) -> type | None:
        """The class that the context's annotation is; None where it names none, or none that can be seen here."""
        found = self._resolved(self.positional[0].annotation) if self.takes_context else None
        return found if isinstance(found, type) and is_activity_context(found) else None

    @property
    def input_parameter(self) -> inspect.Parameter | None:
        """The parameter that takes the input, if there is one."""
        index = 1 if self.takes_context else 0
        return self.positional[index] if len(self.positional) > index else None

    @functools.cached_property
    def input_annotation(self) -> Any:
        """The input's type; EMPTY without input, without annotation, or if it cannot be resolved."""
        return EMPTY if self.input_parameter is None else self._resolved(self.input_parameter.annotation)

    @property
    def input_default(self) -> Any:
        """The default of the input parameter, or EMPTY."""
        return EMPTY if self.input_parameter is None else self.input_parameter.default

    @functools.cached_property
    def result_annotation(self) -> Any:
        """The type of what a call finally gives; EMPTY without annotation or if it cannot be resolved."""
        return _result_of(self._resolved(self.return_annotation), self.style)

    def _resolved(self, annotation: Any) -> Any:
        if annotation is EMPTY:
            return EMPTY
        try:
            return self.scope.resolve(annotation)
        except Exception as error:  # noqa: BLE001 - an annotation is the user's code and may raise anything
            _logger.debug("%s: annotation %s counts as missing: %r", self.place, annotation, error)
            return EMPTY


def read_activity(function: AnyFunction, kind: str = "activity") -> Signature:
    """Read an activity. Raises TypeError where the function is no activity by the rules above."""
    signature = _read(function, kind)
    if signature.style is Style.GENERATOR:
        raise _mistake(function, kind, "is a generator function", "return one value, from def or async def")
    for parameter in signature.positional:
        if any(word.endswith("OrchestrationContext") for word in _words(parameter.annotation)):
            what = f"takes an OrchestrationContext as '{parameter.name}'"
            raise _mistake(function, kind, what, "only an orchestrator has one, decorated with @app.orchestrator")
    if len(signature.positional) == 2:
        _check_context_first(function, kind, signature)
        context_first: bool | None = True
    else:
        context_first = _single_is_context(signature)
    return dataclasses.replace(signature, context_first=context_first)


def read_operation(function: AnyFunction) -> Signature:
    """Read an operation: a method as its class has it. Raises TypeError where it is none by the rules above."""
    return read_activity(types.MethodType(function, _SOME_OBJECT), "operation")


def read_handler(function: AnyFunction) -> Signature:
    """Read a handler of a query or an update, or a validator. Raises TypeError where the function takes more than one input."""
    signature = _read(function, "handler")
    if len(signature.positional) > 1:
        names = ", ".join(parameter.name for parameter in signature.positional)
        raise _mistake(function, "handler", f"takes two parameters ({names})", _ONE_INPUT)
    return dataclasses.replace(signature, context_first=False)


def read_orchestrator(function: AnyFunction) -> Signature:
    """Read an orchestrator. Raises TypeError where the function is no orchestrator by the rules above."""
    signature = _read(function, "orchestrator")
    if not signature.positional:
        raise _mistake(function, "orchestrator", "takes no parameter", "give it an OrchestrationContext")
    first = signature.positional[0]
    annotation = _resolved_now(signature, first)
    kind = typing.get_origin(annotation) or annotation
    # No class of Python's own can be the context: the usual slip is an input without a context before it.
    is_builtin = isinstance(kind, type) and kind is not object and kind.__module__ == "builtins"
    named_so = any(word.endswith(_CONTEXT_NAMES) for word in _words(first.annotation))
    if is_builtin or named_so or is_activity_context(annotation):
        what = f"has '{first.name}: {_shown(first)}' where its context belongs"
        raise _mistake(function, "orchestrator", what, "make its first parameter ctx: OrchestrationContext")
    return signature


def _read(function: AnyFunction, kind: str) -> Signature:
    """Read what holds for both kinds; the context is taken to be first."""
    _check_callable(function, kind)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise _mistake(function, kind, "does not tell its parameters", "wrap it in a def") from error
    positional: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if isinstance(parameter.default, Marker):
            _check_injected(function, kind, parameter)
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise _mistake(function, kind, f"takes *{parameter.name}", _ONE_INPUT)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is EMPTY:
            what = f"has the keyword-only parameter '{parameter.name}' without a default"
            raise _mistake(function, kind, what, f"{_ONE_INPUT}, or give it a default")
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            positional.append(parameter)
    if positional and positional[0].name in ("self", "cls") and positional[0].annotation is EMPTY:
        remedy = f"register a bound one, app.{kind}(instance.method), or make it a @staticmethod"
        raise _mistake(function, kind, "is a method without its instance", remedy)
    if len(positional) > 2:
        names = ", ".join(parameter.name for parameter in positional)
        raise _mistake(function, kind, f"takes {len(positional)} parameters ({names})", _ONE_INPUT)
    return Signature(
        place=place_of(function),
        style=style_of(function),
        positional=tuple(positional),
        return_annotation=signature.return_annotation,
        scope=Scope.of(function, signature),
        context_first=True,
        injected=injected(signature.parameters.values()),
    )


def _check_injected(function: AnyFunction, kind: str, parameter: inspect.Parameter) -> None:
    if kind != "activity":
        what = f"wants '{parameter.name}' injected"
        raise _mistake(function, kind, what, "only an activity is given what a worker brings along")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        what = f"wants the positional-only parameter '{parameter.name}' injected"
        raise _mistake(function, kind, what, "what is injected is passed by name")


def _check_callable(function: Any, kind: str) -> None:
    if isinstance(function, str):
        raise TypeError(f"@app.{kind}({function!r}): options are given by keyword, @app.{kind}(name={function!r})")
    if isinstance(function, classmethod):
        raise TypeError(
            f"{kind}: a classmethod has no class yet; register it below the class, app.{kind}(Class.method)"
        )
    if inspect.isclass(function):
        raise TypeError(f"{kind}: {function!r} is a class; {_SHAPES[kind]}")
    if not callable(function):
        raise TypeError(f"{kind}: {function!r} is not a function; {_SHAPES[kind]}")
    if inspect.isasyncgenfunction(function):
        raise _mistake(function, kind, "is an async generator function", "use await and return, never yield")


def _check_context_first(function: AnyFunction, kind: str, signature: Signature) -> None:
    """Refuse two parameters of which the second is the context, or of which the first cannot be it."""
    first, second = signature.positional
    if signature.scope.names_context(second.annotation):
        what = f"has its context '{second.name}' second"
        raise _mistake(function, kind, what, "put the context first")
    annotation = _resolved_now(signature, first)
    if annotation is None:
        # Out of reach, so the benefit of the doubt goes to any class that is called a context.
        fits = any(word.endswith("Context") for word in _words(first.annotation))
    else:
        fits = any(annotation is vague for vague in (EMPTY, Any, object)) or is_activity_context(annotation)
    if not fits:
        context = "EntityContext" if kind == "operation" else "ActivityContext"
        what = f"takes two inputs, for '{first.name}: {_shown(first)}' is no {context} that can be seen here"
        raise _mistake(function, kind, what, _ONE_INPUT)


def _single_is_context(signature: Signature) -> bool | None:
    """Tell whether the only parameter is the context; None if its annotation cannot be resolved yet."""
    if not signature.positional or signature.positional[0].annotation is EMPTY:
        return False
    annotation = _resolved_now(signature, signature.positional[0])
    return None if annotation is None else is_activity_context(annotation)


def _resolved_now(signature: Signature, parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotation as far as it can be known at decoration: None if it cannot yet."""
    if parameter.annotation is EMPTY:
        return EMPTY
    try:
        return signature.scope.resolve(parameter.annotation)
    except Exception:  # noqa: BLE001 - most likely a name that is defined further down
        return None


def _shown(parameter: inspect.Parameter) -> str:
    return inspect.formatannotation(parameter.annotation).strip("'\"")


def _mistake(function: AnyFunction, kind: str, what: str, remedy: str) -> TypeError:
    return TypeError(f"{kind} {called(function)} {what}: {remedy}. {_SHAPES[kind]}.")
