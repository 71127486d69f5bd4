"""`@app.cron`: schedules that are declared in code, and brought in step with the store when a worker starts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from durable.app import App, ServedName
from durable.errors import DuplicateNameError, UnknownNameError
from durable.ids import check_instance_id
from durable.schedules.client import Schedules
from durable.schedules.targets import target_spec
from durable.schedules.times import fields_of, zone_of
from durable.schedules.wire import ScheduleSpec
from durable.signatures import AnyFunction, called

if TYPE_CHECKING:
    from durable.client import Client

logger = logging.getLogger("durable.schedules")

F = TypeVar("F", bound=AnyFunction)


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A function with a cron expression. `id` None: the name that the function is registered under."""

    function: AnyFunction
    expression: str
    timezone: str
    input: Any
    id: str | None


class Declarations:
    """The declarations of an app, in their order."""

    def __init__(self, declarations: Iterable[Declaration] = ()) -> None:
        self.all: Final = list(declarations)

    def merged(self, other: Declarations) -> Declarations:
        """See `durable.features.Feature`."""
        return Declarations([*self.all, *(one for one in other.all if one not in self.all)])

    def served(self) -> Iterable[ServedName]:
        """See `Feature`: what a schedule starts is an activity or an orchestrator of the app."""
        return ()


def cron(
    app: App,
    expression: str,
    *,
    timezone: str = "UTC",
    input: Any = None,  # noqa: A002 (the interface's name)
    id: str | None = None,  # noqa: A002 (as above)
) -> Callable[[F], F]:
    """Declare a schedule; see `App.cron`."""
    expression = " ".join(fields_of(expression))
    zone_of(timezone)
    if id is not None:
        check_instance_id(id)

    def declare(function: F) -> F:
        target: Any = function.__func__ if isinstance(function, staticmethod) else function
        if not callable(target):
            raise TypeError(
                f"@app.cron stands above a function that is an activity or an orchestrator, not {function!r:.200}"
            )
        declaration = Declaration(target, expression, timezone, input, id)
        app.feature(Declarations, Declarations).all.append(declaration)
        return function

    return declare


def specs_of(app: App) -> dict[str, ScheduleSpec]:
    """Return the schedules that an app declares, by their ids.

    Raises UnknownNameError for a function that is neither an activity nor an orchestrator, InvalidInputError for an input that
    does not fit, DuplicateNameError for two schedules under one id.
    """
    found: dict[str, ScheduleSpec] = {}
    for declaration in app.feature(Declarations, Declarations).all:
        try:
            target = target_spec(app, declaration.function, declaration.input)
        except UnknownNameError as error:
            raise UnknownNameError(
                f"@app.cron({declaration.expression!r}) stands above {called(declaration.function)}, which is neither an "
                "activity nor an orchestrator: decorate it with @app.activity too"
            ) from error
        schedule_id = target.name if declaration.id is None else declaration.id
        if schedule_id in found:
            raise DuplicateNameError(
                f"two schedules are called '{schedule_id}': give @app.cron({declaration.expression!r}) above "
                f"{called(declaration.function)} an id of its own, id=…"
            )
        found[schedule_id] = ScheduleSpec(target, cron=declaration.expression, timezone=declaration.timezone)
    return found


async def bring_in_step(app: App, client: Client) -> None:
    """Bring the store in step with what an app declares, before its worker begins. Raises what `specs_of` raises."""
    specs = specs_of(app)
    if not specs:
        return
    schedules = Schedules(client)
    for schedule_id, spec in specs.items():
        await schedules.declare(schedule_id, spec)
    for state in await schedules.list():
        if state.is_declared and state.id not in specs:
            logger.warning(
                "schedule '%s' was declared in code, and is not any more; it goes on until client.schedules.delete('%s')",
                state.id,
                state.id,
            )
