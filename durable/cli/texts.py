"""What is shown in a terminal: text that it cannot mistake for a command, ages and times, tables, and JSON.

Ids, names, values and errors are made by users, or by theirs. Whatever of them a terminal would obey (escape sequences,
carriage returns, changes of the direction of writing) is shown as an escape, as Python writes it; nothing is read as markup.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from durable.json_values import json_value
from durable.model import OrchestrationStatus

# Control characters; what ends lines elsewhere; what changes the direction of writing; half surrogate pairs.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

VALUE_CHARACTERS_MAX: Final = 400
"""Characters of a value that are shown beside others; `--json` and `history` have all of it."""

STYLES: Final = {
    OrchestrationStatus.PENDING: "dim",
    OrchestrationStatus.RUNNING: "cyan",
    OrchestrationStatus.SUSPENDED: "yellow",
    OrchestrationStatus.STALLED: "bold magenta",
    OrchestrationStatus.COMPLETED: "green",
    OrchestrationStatus.FAILED: "bold red",
    OrchestrationStatus.CANCELLED: "yellow",
    OrchestrationStatus.TERMINATED: "red",
}

_UNITS: Final = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))

GAP: Final = 2
"""Blanks between two columns."""

SHRUNK_COLUMNS_MIN: Final = 6

PROGRESS_MARGIN: Final = 4
"""Columns of the sign that moves, and one for the cursor."""

PIPE_COLUMNS: Final = 1_000_000
"""No terminal: nothing is cut to fit one."""


def safe(text: str) -> str:
    """Return a text in one line, with escapes for what a terminal would obey."""
    return _OBEYED.sub(lambda found: _escape(found[0]), text)


def safe_lines(text: str) -> str:
    """Return a text as `safe` does, but keep its lines."""
    return "\n".join(map(safe, text.split("\n")))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def short(text: str, characters: int) -> str:
    """Return a text, cut to so many characters, with a mark."""
    return text if len(text) <= characters else text[: max(characters - 1, 0)] + "…"


def value_text(value: Any, characters: int | None = VALUE_CHARACTERS_MAX) -> str:
    """Return a value as JSON in one line, cut where it is long (None: never)."""
    text = safe(json.dumps(json_value(value), ensure_ascii=False))
    return text if characters is None else short(text, characters)


def json_text(value: Any) -> str:
    """Return a value as JSON in one line of ASCII, which no terminal obeys."""
    return json.dumps(json_value(value), allow_nan=False)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()  # whoever reads a stream of them waits for each


class JsonList:
    """One JSON document, a list, printed item by item: one in each line, as they come."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, value: Any) -> None:
        """Print one more item."""
        sys.stdout.write(("[" if self._count == 0 else ",\n ") + json_text(value))
        self._count += 1

    def end(self) -> None:
        """Print the end."""
        sys.stdout.write("[]\n" if self._count == 0 else "]\n")
        sys.stdout.flush()


def console() -> Console:
    """Return where people read: in colour in a terminal, plain and as wide as need be in a pipe.

    Nothing in a text is markup for it. `NO_COLOR` and `COLUMNS` are obeyed.
    """
    made = Console(markup=False, highlight=False, emoji=False)
    return made if made.is_terminal else Console(markup=False, highlight=False, emoji=False, width=PIPE_COLUMNS)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being waited for, in a line that moves, to whoever sits at a terminal; give what changes the line.

    It is on the error output, and gone at the end.
    """
    screen = Console(markup=False, highlight=False, emoji=False, stderr=True)
    if not screen.is_terminal:
        yield lambda changed: None
        return

    def line(shown: str) -> Text:
        return Text(short(safe(shown), max(screen.width - PROGRESS_MARGIN, 1)), no_wrap=True)

    with screen.status(line(text)) as status:
        yield lambda changed: status.update(line(changed))


def is_plain_ascii(screen: Console) -> bool:
    """Tell whether a screen can show ASCII only."""
    return not screen.encoding.lower().replace("-", "").startswith("utf")


def print_table(
    screen: Console, titles: Sequence[str], rows: Sequence[Sequence[Text]], *, shrinks: Sequence[int]
) -> None:
    """Print columns without a frame. Where a screen has no room, those in `shrinks` are cut, the first one first."""
    widths = [max([len(title), *(row[at].cell_len for row in rows)]) for at, title in enumerate(titles)]
    over = sum(widths) + GAP * (len(widths) - 1) - screen.width
    for at in shrinks:
        cut = min(max(over, 0), max(widths[at] - max(len(titles[at]), SHRUNK_COLUMNS_MIN), 0))
        widths[at] -= cut
        over -= cut
    for row in ([Text(title, "bold") for title in titles], *rows):
        line = Text(no_wrap=True, overflow="ignore")
        for cell, width in zip(row, widths, strict=True):
            cell.truncate(width, overflow="ellipsis", pad=True)
            line.append_text(cell).append(" " * GAP)
        line.rstrip()
        screen.print(line, soft_wrap=True)


def status_text(status: OrchestrationStatus) -> Text:
    """Return a status in its colour."""
    return Text(status, STYLES[status])


def moment_text(when: datetime | None) -> str:
    """Return a time in the zone of this machine, to the second."""
    if when is None:
        return "-"
    try:
        return safe(f"{when.astimezone():%Y-%m-%d %H:%M:%S %Z}")
    except (OverflowError, ValueError, OSError):  # the first and last days of the calendar have no local time
        return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def span_text(span: timedelta | float) -> str:
    """Return how long something took, in two units at most: `3 d 4 h`, `2 min 5 s`, `1.25 s`, `40 ms`."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 0:
        return f"-{span_text(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    rounded = round(seconds)
    for at, (unit, size) in enumerate(_UNITS):
        if rounded >= size:
            whole, rest = divmod(rounded, int(size))
            smaller, smaller_size = (*_UNITS, ("s", 1.0))[at + 1]
            part = int(rest // smaller_size)
            return f"{whole} {unit} {part} {smaller}" if part else f"{whole} {unit}"
    return f"{rounded} s"


def age_text(when: datetime | None, now: datetime) -> str:
    """Return how long ago a time is, or in how long it will be."""
    if when is None:
        return "-"
    seconds = (now - when).total_seconds()
    return f"in {span_text(-seconds)}" if seconds < 0 else f"{span_text(seconds)} ago"
