"""What commands have in common: the store that they open, filters, `--json`, and how they end.

A command that needs no new store opens it so that a missing one is refused, not made.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from durable.app import App
from durable.cli.apps import store_of
from durable.cli.values import moment_ago, tags_of
from durable.client import Client
from durable.client.filters import Filters
from durable.errors import DurableError
from durable.model import OrchestrationStatus
from durable.ports import system_ports
from durable.provider import Provider
from durable.stores import connect

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])


COMPLETIONS_MAX: Final = 50

MUST_EXIST: Final = {"sqlite": "mode=rw", "postgresql": "migrate=off", "postgres": "migrate=off"}
"""By scheme, the option with which a store is opened and not made."""


def existing(store: str) -> str | Provider:
    """Return the URL by which a store is opened only if it is there; what a function of the user's gives is as it says."""
    scheme, separator, rest = store.partition("://")
    if not separator:
        return named(store)
    option = MUST_EXIST.get(scheme)
    if option is None or option.partition("=")[0] + "=" in rest.partition("?")[2]:
        return store
    return f"{store}{'&' if '?' in rest else '?'}{option}"


def _checked(ctx: click.Context, param: click.Parameter, store: str | None) -> str:
    if not store:
        raise click.UsageError("which store? Give --store URL, such as sqlite:///app.db, or set DURABLE_STORE", ctx)
    if store.partition("://")[0] == "memory":
        raise click.UsageError("a memory:// store lives in the process that opened it: nobody else can see it", ctx)
    return store


store_option: Final = click.option(
    "--store",
    metavar="URL",
    envvar="DURABLE_STORE",
    callback=_checked,
    help="The store, such as sqlite:///app.db, or MODULE:FUNCTION that gives it. Default: DURABLE_STORE.",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")


def named(store: str) -> str | Provider:
    """Return what a Worker or a Client takes for a store, to be made if it is missing."""
    return store if "://" in store or ":" not in store else store_of(store)


@contextlib.asynccontextmanager
async def opened(store: str, app: App | None = None, *, creates: bool = False) -> AsyncIterator[Client]:
    """Give a client of a store; one that is missing is made only with `creates`."""
    async with Client(named(store) if creates else existing(store), app) as client:
        yield client


@contextlib.asynccontextmanager
async def opened_provider(store: str) -> AsyncIterator[Provider]:
    """Give the open provider of a store that is there."""
    provider = connect(existing(store), system_ports())
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


def waiting(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Return a coroutine function as one that runs it to its end."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        asyncio.run(function(*arguments, **options))

    return run


# ---- ids


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids that begin so, for a shell, but those that it would break; none where the store cannot be asked."""
    store = ctx.params.get("store") or os.environ.get("DURABLE_STORE")
    try:
        return asyncio.run(_ids(store, incomplete)) if store else []
    except (DurableError, OSError, click.ClickException):
        return []


async def _ids(store: str, prefix: str) -> list[str]:
    async with opened(store) as client:
        found = client.query(prefix=prefix or None, limit=COMPLETIONS_MAX, payloads=False)
        return [state.instance_id async for state in found if re.fullmatch(r"[\w.:/@+-]+", state.instance_id)]


id_argument: Final = click.argument("instance_id", metavar="ID", shell_complete=complete_ids)


# ---- filters


STATUSES: Final = click.Choice([status.value for status in OrchestrationStatus], case_sensitive=False)

_FILTERS: Final = (
    click.option(
        "--status", "statuses", type=STATUSES, multiple=True, help="In this status; several times: any of them."
    ),
    click.option("--name", help="Of this orchestrator."),
    click.option("--prefix", help="Whose id begins so."),
    click.option(
        "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="With this tag; several times: all of them."
    ),
    click.option("--created-after", type=moment_ago, metavar="TIME", help="Not older than 2026-01-31T09:00, or 2h."),
    click.option("--created-before", type=moment_ago, metavar="TIME", help="Older than that."),
    click.option("--parent", metavar="ID", help="Children of this instance."),
)


def filter_options(function: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
    """Give a command the options that choose instances; the function takes them first, as filters."""

    @functools.wraps(function)
    def taking(*arguments: P.args, **options: P.kwargs) -> Any:
        return function(_filters(options), *arguments, **options)

    wrapped: Any = taking
    for option in reversed(_FILTERS):
        wrapped = option(wrapped)
    taken: Callable[P, Any] = wrapped
    return taken


def _filters(options: dict[str, Any]) -> Filters:
    """Take the filters out of a command's options."""
    found = Filters()
    statuses, tags = options.pop("statuses"), tags_of(options.pop("tags"))
    if statuses:
        found["status"] = [OrchestrationStatus(one) for one in statuses]
    if tags:
        found["tags"] = tags
    for key in ("name", "prefix", "created_after", "created_before", "parent"):
        value = options.pop(key)
        if value is not None:
            found[key] = value
    return found
