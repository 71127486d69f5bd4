"""Tokens for the dashboard, from the command line: `python -m durable.web token add FILE NAME --role operator`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from durable.errors import InvalidInputError
from durable.web.roles import Role, role_named
from durable.web.tokens import TokenFile, add_token, remove_tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m durable.web", description=__doc__)
    commands = parser.add_subparsers(required=True).add_parser("token", help="who may use a dashboard")
    actions = commands.add_subparsers(dest="action", required=True)
    for action, what in (("add", "make a token and show it once"), ("remove", "take a name's tokens away")):
        one = actions.add_parser(action, help=what)
        one.add_argument("file")
        one.add_argument("name")
        if action == "add":
            one.add_argument("--role", choices=[role.name.lower() for role in Role], default="viewer")
    actions.add_parser("list", help="who has one").add_argument("file")
    asked = parser.parse_args(arguments)
    try:
        return _do(asked)
    except (InvalidInputError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _do(asked: argparse.Namespace) -> int:
    if asked.action == "add":
        sys.stdout.write(add_token(asked.file, asked.name, role_named(asked.role)) + "\n")
    elif asked.action == "remove":
        sys.stdout.write(f"{remove_tokens(asked.file, asked.name)} removed\n")
    else:
        for known in TokenFile(asked.file).known():
            sys.stdout.write(f"{known.principal.role.name.lower():9} {known.principal.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
