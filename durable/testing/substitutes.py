"""What a test puts in the place of activities: fakes, and failures to order."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

from durable.activity_context import current_activity
from durable.app import ActivityDefinition, App
from durable.errors import UnknownNameError
from durable.signatures import EMPTY, AnyFunction, Signature, called, identity_of, read_activity

Place = tuple[str, str]
"""An activity's name and exact version."""


class Substitutes:
    """The fakes and ordered failures of one test, by activity. `stage` runs each attempt with them."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._fakes: dict[Place, Callable[[ActivityDefinition, tuple[Any, ...]], Any]] = {}
        self._failures: dict[Place, deque[BaseException | type[BaseException]]] = {}

    def replace(self, activity: AnyFunction | str, fake: AnyFunction) -> None:
        """Run `fake` instead of an activity: by function, of its version; by name, in all versions.

        Raises UnknownNameError for what is no activity of the app, TypeError for a fake that has no activity's shape.
        """
        run = _adapted(fake)
        for definition in self._meant(activity):
            self._fakes[definition.name, definition.exact_version] = run

    def fail(self, activity: AnyFunction | str, error: BaseException | type[BaseException], times: int) -> None:
        """Let the next `times` attempts of an activity raise `error` instead of running. Raises as `replace`, ValueError."""
        if not issubclass(error if inspect.isclass(error) else type(error), BaseException):
            raise TypeError(f"error must be an exception, or a class of them, not {error!r:.200}")
        if isinstance(times, bool) or not isinstance(times, int):
            raise TypeError(f"times must be an int, not {times!r:.200}")
        if times < 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        queue: deque[BaseException | type[BaseException]] = deque()
        for definition in self._meant(activity):
            # One queue for all versions of a name: the next attempt is the next attempt, whichever version it is of.
            queue = self._failures.setdefault((definition.name, definition.exact_version), queue)
        queue.extend([error] * times)

    def stage(self, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> Any:
        """Run an attempt of an activity: fail to order, run the fake, or the function itself."""
        place = (definition.name, definition.exact_version)
        failures = self._failures.get(place)
        if failures:
            error = failures.popleft()
            raise error.with_traceback(None) if isinstance(error, BaseException) else error
        fake = self._fakes.get(place)
        return definition.function(*arguments) if fake is None else fake(definition, arguments)

    def _meant(self, activity: AnyFunction | str) -> list[ActivityDefinition]:
        if isinstance(activity, str):
            self._app.find_activity(activity)  # raises for an unknown one
            return [definition for definition in self._app.activities if definition.name == activity]
        if not callable(activity):
            raise TypeError(f"activity must be an activity's function or its name, not {activity!r:.200}")
        found = self._app.activity_of(activity)
        own = [known for known in self._app.activities if found is not None and _is_same(known, found)]
        if not own:
            raise UnknownNameError(f"{called(activity)} is no activity of this app: register it, or include its app")
        return own


def _is_same(known: ActivityDefinition, found: ActivityDefinition) -> bool:
    is_named_so = (known.name, known.exact_version) == (found.name, found.exact_version)
    return is_named_so and identity_of(known.function) == identity_of(found.function)


def _adapted(fake: AnyFunction) -> Callable[[ActivityDefinition, tuple[Any, ...]], Any]:
    """Return how a fake is called: with what it takes of context and input, whatever the activity itself takes."""
    if not inspect.isclass(fake) and _takes_anything(fake):  # a mock, say
        return lambda _, arguments: fake(*arguments)
    signature = read_activity(fake)

    def run(definition: ActivityDefinition, arguments: tuple[Any, ...]) -> Any:
        context = (current_activity(),) if signature.takes_context else ()
        return fake(*context, *_input(signature, definition, arguments))

    return run


def _takes_anything(fake: AnyFunction) -> bool:
    try:
        parameters = inspect.signature(fake).parameters.values()
    except (TypeError, ValueError):
        return False  # `read_activity` says what is wrong with it
    return any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)


def _input(signature: Signature, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if signature.input_parameter is None:
        return ()
    if definition.takes_input:
        return arguments[-1:]
    return () if signature.input_default is not EMPTY else (None,)
