"""An app whose activities can be watched and replaced, while everything else about it stays as it is."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from durable.app import ActivityDefinition, App

Stage = Callable[[ActivityDefinition, tuple[Any, ...]], Any]
"""Runs an activity in its place: gets its definition and the arguments of the call; returns what it returns, or awaits."""


class StagedApp(App):
    """A copy of an app. Each call of an activity goes to `stage`, which may call the real function or do without."""

    def __init__(self, app: App, stage: Stage) -> None:
        super().__init__(retain=app.retain)
        self.include(app)
        self._stage = stage
        self._staged: dict[tuple[str, str], ActivityDefinition] = {}

    def find_activity(self, name: str, version: str | None = None) -> ActivityDefinition:
        """As `App.find_activity`, with the stage in the place of the function."""
        found = super().find_activity(name, version)
        place = (found.name, found.exact_version)
        if place not in self._staged:
            self._staged[place] = dataclasses.replace(found, function=_staged(found, self._stage))
        return self._staged[place]


def _staged(definition: ActivityDefinition, stage: Stage) -> Callable[..., Any]:
    if not definition.is_async:
        return functools.wraps(definition.function)(
            lambda *arguments, **injected: stage(_filled(definition, injected), arguments)
        )

    @functools.wraps(definition.function)
    async def call(*arguments: Any, **injected: Any) -> Any:
        result = stage(_filled(definition, injected), arguments)
        return await result if inspect.isawaitable(result) else result

    return call


def _filled(definition: ActivityDefinition, injected: dict[str, Any]) -> ActivityDefinition:
    """Return a definition whose function has what the worker brings along; the stage knows of arguments only."""
    if not injected:
        return definition
    return dataclasses.replace(definition, function=functools.partial(definition.function, **injected))
