"""What is written on the command line, as values: inputs, times, spans, tags. What does not fit is a usage error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from durable.app import check_name
from durable.versions import canonical_version

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)\s*", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

SHOWN_CHARACTERS_MAX: Final = 60


def shown(text: str) -> str:
    """Return what was written, as an error may show it."""
    return repr(text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…")


def json_of(text: str | None, what: str, *, is_text: bool = False) -> Any:
    """Return the value of JSON text, of a file's (`@FILE`) or of standard input's (`-`); None for none.

    With `is_text` the text itself is the value.
    """
    if text is None:
        return None
    source, read = what, text
    if text == "-":
        source, read = f"{what} (standard input)", sys.stdin.read()
    elif text.startswith("@"):
        source = f"{what} (file {shown(text[1:])})"
        try:
            read = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise click.UsageError(f"{source} cannot be read: {error}") from error
    if is_text:
        return read
    try:
        return json.loads(read)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(
            f"{source} is no JSON ({error}): {shown(read)}. A text has quotes of its own, '\"A-7\"', or takes --text"
        ) from error


def named_json(text: str, what: str) -> tuple[str, Any]:
    """Return the parts of `NAME` or `NAME=JSON`."""
    name, separator, rest = text.partition("=")
    return name, json_of(rest, f"{what} {shown(name)}") if separator else None


def tags_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return the tags written as KEY=VALUE."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.UsageError(f"a tag is KEY=VALUE, not {shown(pair)}")
        found[key] = value
    return found


def span_of(text: str) -> timedelta | None:
    """Return a span such as `90s`, `5m`, `1h30m`, `2d`, or a bare number of seconds; None where it is none."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    parts = _SPAN.findall(text)
    if not parts or "".join(_SPAN.sub("", text).split()):
        return None
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts))
    except OverflowError:
        return None


def span(text: str) -> timedelta:
    """Read a length of time."""
    found = span_of(text)
    if found is None:
        raise click.BadParameter(f"{shown(text)} is no length of time: write 90s, 5m, 1h30m or 2d")
    return found


def version(text: str) -> str:
    """Read a version."""
    try:
        return canonical_version(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def orchestrator(text: str) -> str:
    """Read the name of an orchestrator."""
    try:
        check_name("the name of an orchestrator", text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return text


def moment_ahead(text: str) -> datetime:
    """Read a point in time: ISO 8601, in the zone of this machine unless it names one, or a span from now."""
    return _moment(text, 1, "10m (from now)")


def moment_ago(text: str) -> datetime:
    """Read a point in time as `moment_ahead` does; a span is how long ago it is."""
    return _moment(text, -1, "2h (that long ago)")


def _moment(text: str, direction: int, example: str) -> datetime:
    try:
        found = span_of(text)
        if found is not None:
            return datetime.now(UTC) + direction * found
        read = datetime.fromisoformat(text)
        return read if read.tzinfo is not None else read.astimezone()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{shown(text)} is no time: write 2026-01-31T09:00, with +02:00 or Z for a zone, or {example}"
        ) from None
