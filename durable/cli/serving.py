"""Commands that serve: `worker`, and `dashboard`, whose extra need not be there for all the others."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import click

from durable.cli.apps import app_of, given
from durable.cli.exits import Refused
from durable.cli.options import existing, json_option, named, store_option
from durable.cli.reloading import serve_and_reload
from durable.cli.texts import print_json, safe_lines
from durable.cli.values import span
from durable.middleware import Middleware
from durable.worker import Worker

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

PORT_DEFAULT: Final = 8765

ROLES: Final = click.Choice(["viewer", "operator", "admin"])


class SafeFormatter(logging.Formatter):
    """Logs tell of users' texts too: what a terminal would obey in them is written as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as lines of text."""
        return safe_lines(super().format(record))


@click.command(short_help="Serve an app: run its orchestrations and activities.")
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "--queue", "queues", multiple=True, metavar="NAME", help="An activity queue to serve; default: 'default'."
)
@click.option("--name", help="The worker's name, as others see it; default: host and process.")
@click.option("--activities-only", is_flag=True, help="Run activities and no orchestrations.")
@click.option("--orchestrations-only", is_flag=True, help="Run orchestrations and no activities.")
@click.option("--max-activities", type=click.IntRange(min=1), default=100, help="So many at a time. Default: 100.")
@click.option("--max-cached", type=click.IntRange(min=0), default=10_000, help="Instances in memory. Default: 10000.")
@click.option("--strict", is_flag=True, help="On replay, another value stalls the instance, not only another request.")
@click.option(
    "--shutdown-timeout", type=span, default="30s", metavar="SPAN", help="A stop waits so long. Default: 30s."
)
@click.option(
    "--middleware", multiple=True, metavar="MODULE:NAME", help="What runs around; durable.otel:Telemetry, say."
)
@click.option("--dependencies", metavar="MODULE:NAME", help="What is injected into activities: a mapping.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS, case_sensitive=False), default="info", help="Default: info.")
@click.option("--reload", "reloads", is_flag=True, help="Begin again when the code changes; for development.")
@store_option
def worker(app: str, *, store: str, reloads: bool, log_level: str, **options: Any) -> None:
    """Serve an app until SIGINT or SIGTERM; running activities may finish first. A second signal ends at once.

    MODULE is imported from the current folder or from what is installed; APP is `app` where it is left out. A store that is
    missing is made. With --reload, workers of a process of their own follow each other as Python files below the current
    folder change. What --middleware and --dependencies name is that itself, or a function or class that gives it.

    \b
      durable worker orders.worker:app --store sqlite:///orders.db
      durable worker orders.worker:app --queue mail --activities-only
      durable worker orders.worker:app --dependencies orders.worker:databases --middleware durable.otel:Telemetry
    """
    if reloads:
        serve_and_reload()
        return
    # What the code itself has configured stays: this adds a handler only where there is none.
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter(LOG_FORMAT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    made = make_worker(app, store, **options)
    asyncio.run(made.run())


def make_worker(
    app: str,
    store: str,
    *,
    queues: Sequence[str],
    name: str | None,
    activities_only: bool,
    orchestrations_only: bool,
    max_activities: int,
    max_cached: int,
    strict: bool,
    shutdown_timeout: timedelta,
    middleware: Sequence[str] = (),
    dependencies: str | None = None,
) -> Worker:
    """Return the worker that the options describe."""
    if activities_only and orchestrations_only:
        raise click.UsageError("--activities-only and --orchestrations-only together leave nothing to do")
    found = app_of(app)
    try:
        return Worker(
            found,
            named(store),
            name=name,
            queues=tuple(queues) or ("default",),
            orchestrations=not activities_only,
            activities=not orchestrations_only,
            max_activities=max_activities,
            max_cached_orchestrations=max_cached,
            strict=strict,
            shutdown_timeout=shutdown_timeout,
            middleware=[given(one, Middleware, "a middleware") for one in middleware],
            dependencies=None if dependencies is None else given(dependencies, Mapping, "what is injected"),  # type: ignore[type-abstract]
        )
    except (TypeError, ValueError) as error:  # the name of a queue, say
        raise click.UsageError(str(error)) from error


@click.command(short_help="Serve the dashboard and its HTTP API.")
@click.option("--host", default="127.0.0.1", help="The address to listen at. Default: 127.0.0.1, this machine only.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT_DEFAULT, help=f"Default: {PORT_DEFAULT}; 0: any.")
@click.option("--tokens", metavar="FILE", help="Who may do what; needed for any address that others can reach.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="A further name that it is reached by."
)
@click.option("--read-only", is_flag=True, help="Nothing can be changed.")
@click.option(
    "--payloads-for", "payload_role", type=ROLES, default="viewer", help="Who sees inputs and outputs. Default: viewer."
)
@click.option("--certificate", metavar="FILE", help="For HTTPS, in PEM.")
@click.option("--certificate-key", metavar="FILE", help="Its key, where that is another file.")
@click.option("--app", metavar="MODULE:APP", help="The app, so that names and versions are checked at a start.")
@store_option
@json_option
def dashboard(*, store: str, payload_role: str, app: str | None, as_json: bool, **options: Any) -> None:
    """Serve the dashboard of a store, and the HTTP API under it, until SIGINT or SIGTERM. It needs the extra `web`.

    Without --tokens it listens on this machine only, and whoever is on this machine may do everything.

    \b
      durable dashboard --store sqlite:///orders.db
      durable dashboard --host 0.0.0.0 --tokens tokens.json --allowed-host durable.example.org --certificate site.pem
    """
    web = _web()
    options["payload_role"] = web.Role[payload_role.upper()]
    options["app"] = None if app is None else app_of(app)
    if as_json:
        options["announce"] = lambda address: print_json({"address": address})
    web.serve(existing(store), **options)


def _web() -> Any:
    """Return the package `durable.web`. It is looked for only now: what it needs is an extra of its own."""
    try:
        return importlib.import_module("durable.web")
    except ModuleNotFoundError as error:
        raise Refused(
            f"the dashboard needs '{error.name}', which is not installed: pip install 'durable-orchestration[web]'"
        ) from error
