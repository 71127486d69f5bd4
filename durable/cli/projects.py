"""`init`: a small project that runs, with its test, for whoever begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from durable.cli.exits import Refused
from durable.cli.options import json_option
from durable.cli.texts import print_json, safe

APP: Final = '''\
"""An order: charged, approved by a person, shipped. Each step survives a crash of the worker."""

from datetime import timedelta

from durable import App, OrchestrationContext, RetryPolicy

app = App()


@app.activity(retry_policy=RetryPolicy(timedelta(seconds=1), 5, backoff_coefficient=2.0))
def charge(order_id: str) -> str:
    """Activities do the work: here a service would be called. What fails is tried again, up to 5 times."""
    return f"receipt for {order_id}"


@app.activity
def ship(order_id: str) -> str:
    return f"{order_id} is on its way"


@app.orchestrator
async def order(ctx: OrchestrationContext, order_id: str) -> str:
    """Orchestrators say what is to happen and in which order; they do no input and output of their own."""
    receipt = await ctx.call_activity(charge, order_id)
    ctx.set_custom_status("waiting for approval")
    try:
        approved = await ctx.wait_for_external_event("approved", bool, timeout=timedelta(days=3))
    except TimeoutError:
        approved = False
    if not approved:
        return f"{order_id} was not approved ({receipt})"
    return await ctx.call_activity(ship, order_id)
'''

TEST: Final = '''\
"""Three days pass in milliseconds: `Environment` runs the app in simulated time. Run it with pytest."""

from app import app, order

from durable.testing import Environment


def test_an_approved_order_is_shipped() -> None:
    async def test(env: Environment) -> None:
        handle = await env.client.start(order, "A-7")
        await handle.raise_event("approved", True)
        assert await handle.result() == "A-7 is on its way"

    Environment(app).run(test)


def test_nobody_answers() -> None:
    async def test(env: Environment) -> None:
        assert "was not approved" in await env.client.run(order, "A-8")

    Environment(app).run(test)
'''

README: Final = """\
# {name}

    pip install 'durable-orchestration[cli]' pytest
    export DURABLE_STORE=sqlite:///{name}.db

    durable worker app:app --reload               # in one terminal
    durable start order '"A-7"' --id order-7      # in another
    durable show order-7                          # its timeline, and what it waits for
    durable raise order-7 approved true
    durable watch order-7

Stop the worker at any moment, with kill -9 if you like, and start it again: `order-7` goes on where it was.
The test, `pytest`, needs no worker and no store.
"""

GITIGNORE: Final = "__pycache__/\n*.db\n*.db-*\n*.db.*\n"

FILES: Final = {"app.py": APP, "test_app.py": TEST, "README.md": README, ".gitignore": GITIGNORE}


@click.command(short_help="Write a small project that runs.")
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
@json_option
def init(folder: Path, *, as_json: bool) -> None:
    """Write a small project into FOLDER (default: the current one): an app, its test, and how to run both.

    A file that is there already is not touched: then nothing is written.
    """
    name = folder.resolve().name or "app"
    there = [file for file in FILES if (folder / file).exists()]
    if there:
        raise Refused(f"{', '.join(there)} in '{folder}' would be replaced: choose another folder. Nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in FILES.items():
            with (folder / file).open("x", encoding="utf-8") as target:
                target.write(text.replace("{name}", _file_name(name)))
    except OSError as error:
        raise Refused(f"'{folder}' cannot be written to: {error.strerror or error}") from error
    if as_json:
        print_json({"folder": str(folder), "files": list(FILES)})
        return
    click.echo(f"written to {safe(str(folder))}: {', '.join(FILES)}\n\nNow:")
    if folder != Path():
        click.echo(f"  cd {safe(str(folder))}")
    click.echo(
        f"  export DURABLE_STORE=sqlite:///{_file_name(name)}.db\n"
        "  durable worker app:app --reload\n"
        "and in another terminal:\n"
        "  durable start order '\"A-7\"' --id order-7\n"
        "  durable show order-7"
    )


def _file_name(name: str) -> str:
    """Return a folder's name as a file's name that needs no escape in a URL or a shell."""
    kept = re.sub("[^A-Za-z0-9_]", "-", name)
    return kept.strip("-") or "app"
