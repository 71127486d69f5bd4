"""For who looks after the database: make or change a hub's schema, print how, print the least rights of a role.

python -m durable_postgres migrate postgresql://owner@host/database?hub=NAME
python -m durable_postgres script --hub NAME     # the SQL of a new hub, to be run by hand
python -m durable_postgres rights ROLE --hub NAME
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable

from durable.errors import StoreError
from durable.ports import system_ports
from durable.provider import PARTITIONS
from durable_postgres import connect, rights, schema


def _migrate(given: argparse.Namespace) -> list[str]:
    async def run() -> str:
        provider = connect(given.url, system_ports())
        hub = await provider.open()
        await provider.close()
        return f"the hub '{hub.name}' is ready, with schema version {len(schema.MIGRATIONS)}"

    return [asyncio.run(run())]


def _script(given: argparse.Namespace) -> list[str]:
    return schema.script_of(given.hub, PARTITIONS, system_ports().new_id())


def _rights(given: argparse.Namespace) -> list[str]:
    return [f"{statement};" for statement in rights.statements(given.hub, given.role)]


def main() -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m durable_postgres", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    migrate = commands.add_parser("migrate", help="make a hub, or bring it to the newest version")
    migrate.add_argument("url")
    script = commands.add_parser("script", help="print the SQL of a new hub")
    grants = commands.add_parser("rights", help="print the least rights of the role of workers and clients")
    grants.add_argument("role")
    for command in (script, grants):
        command.add_argument("--hub", default="default")
    run: Callable[[argparse.Namespace], list[str]]
    for command, run in ((migrate, _migrate), (script, _script), (grants, _rights)):
        command.set_defaults(run=run)
    given = parser.parse_args()
    try:
        sys.stdout.write("\n".join(given.run(given)) + "\n")
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
