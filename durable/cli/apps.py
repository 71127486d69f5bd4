"""The app, or the store, that a command is given as MODULE:NAME: users' code, which may fail while it is imported."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType
from typing import Any, Final, TypeVar

import click

from durable.app import App
from durable.cli.exits import Refused
from durable.cli.texts import safe_lines
from durable.cli.values import shown
from durable.provider import Provider

T = TypeVar("T")

_NOT_THE_USERS: Final = frozenset(
    {__file__, importlib.__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
)
"""Files whose frames come before those of a module that is being imported."""


def app_of(text: str) -> App:
    """Return the app that `MODULE:NAME` names; without a name it is the module's `app`. The current folder comes first."""
    module_name, _, name = text.partition(":")
    if not module_name or module_name.endswith(".py") or "/" in module_name:
        raise click.UsageError(f"an app is MODULE:NAME, such as orders.worker:app, not {shown(text)}")
    found = _named(module_name, name or "app")
    if not isinstance(found, App):
        apps = sorted(key for key, item in vars(sys.modules[module_name]).items() if isinstance(item, App))
        hint = f"; it has {', '.join(apps)}" if apps else ""
        raise click.UsageError(f"module {shown(module_name)} has no App named {shown(name or 'app')}{hint}")
    return found


def store_of(text: str) -> str | Provider:
    """Return what the function `MODULE:FUNCTION` gives: a store's URL or provider, such as a sealed one. Called each time."""
    module_name, _, name = text.partition(":")
    if not name or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise click.UsageError(
            "a store is a URL such as sqlite:///app.db, or MODULE:FUNCTION, a function that gives one; this is neither"
        )
    function = _named(module_name, name)
    if not callable(function):
        raise click.UsageError(f"module {shown(module_name)} has no function named {shown(name)}")
    try:
        found = function()
    except Exception as error:
        raise Refused(f"{shown(text)} gives no store: {type(error).__name__}: {error}") from error
    if not isinstance(found, str) and not callable(getattr(found, "submit", None)):
        raise click.UsageError(f"{shown(text)} gives {shown(repr(found))}, and no store")
    provider: str | Provider = found
    return provider


def given(text: str, kind: type[T], what: str) -> T:
    """Return what `MODULE:NAME` names, of this kind: itself, or what it gives as a function or a class without arguments."""
    module_name, _, name = text.partition(":")
    if not name:
        raise click.UsageError(f"{what} is MODULE:NAME, not {shown(text)}")
    found = _named(module_name, name)
    if callable(found) and not isinstance(found, kind):
        try:
            found = found()
        except Exception as error:
            raise Refused(f"{shown(text)} gives no {kind.__name__}: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise click.UsageError(f"{shown(text)} is {shown(repr(found))}: neither a {kind.__name__} nor what gives one")
    return found


def _named(module_name: str, name: str) -> Any:
    """Return what a module, looked for in the current folder first, has under a name; None where there is nothing."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: Any = _imported(module_name, folder)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _imported(name: str, folder: str) -> ModuleType:
    """Import a user's module. What goes wrong in it is shown as Python would, from the user's code on, and told in one line."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{name}.".startswith(f"{error.name}.")
        ):
            raise click.UsageError(
                f"there is no module {shown(name)} in {folder} or among what is installed"
            ) from error
        trace = error.__traceback__
        while trace is not None and (trace.tb_frame.f_code.co_filename in _NOT_THE_USERS):
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace)
        click.echo(safe_lines("".join(lines).rstrip()), err=True)
        raise Refused(f"module {shown(name)} cannot be imported: {type(error).__name__}: {error}") from error
