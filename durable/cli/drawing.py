"""The timeline of an instance in columns of a terminal: a line for each row, with a bar that is to scale.

    activity charge        ██████░░░░████▶        2 attempts, again in 12 s
    timer                  ──────────╴            30 s
    event approved               ◆

A bar is solid while an attempt runs and light between two; a mark is a moment. An arrow is what goes on. Where a screen has
ASCII only, other signs stand for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from durable.cli.texts import age_text, safe, span_text
from durable.timeline import Row, RowKind, RowStatus, Timeline

COLUMNS_MIN: Final = 60
COLUMNS_MAX: Final = 160
"""Wider than that a bar is not read more easily."""

LABEL_COLUMNS_MAX: Final = 40
ABOUT_COLUMNS: Final = 22

AN_EVENT: Final = "an external event"
"""A history does not hold the name of what has not come."""

ROWS_MAX: Final = 60
"""Rows drawn unless more are asked for: the first and the last of them."""

_MOMENTS: Final = frozenset({RowKind.EVENT, RowKind.SENT, RowKind.PERFORMED, RowKind.MARK})
_QUIET: Final = frozenset({RowKind.TIMER, RowKind.WAIT, RowKind.SUSPENSION})
_STYLES: Final = {
    RowStatus.OPEN: "cyan",
    RowStatus.COMPLETED: "green",
    RowStatus.FAILED: "red",
    RowStatus.CANCELLED: "yellow",
    RowStatus.LEFT: "dim",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Signs:
    """What bars are made of."""

    busy: str
    between: str
    quiet: str
    moment: str
    goes_on: str
    failed: str
    ended: str


UNICODE: Final = Signs("█", "░", "─", "◆", "▶", "✗", "│")
ASCII: Final = Signs("=", ".", "-", "*", ">", "x", "|")


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Where on a bar a time is."""

    begin: datetime
    span: timedelta
    columns: int

    def column(self, when: datetime) -> int:
        """Return the column in which a time lies."""
        if self.span <= timedelta(0):
            return 0
        share = (when - self.begin) / self.span
        return min(max(int(share * self.columns), 0), self.columns - 1)


def drawn_lines(
    drawn: Timeline, now: datetime, columns: int, *, rows_max: int = ROWS_MAX, signs: Signs = UNICODE
) -> list[Text]:
    """Return a timeline as lines of at most so many columns: its scale, and a line for each row."""
    rows = drawn.rows
    if not rows or drawn.started_at is None:
        return []
    columns = min(max(columns, COLUMNS_MIN), COLUMNS_MAX)
    left, right = _parts(rows, rows_max)
    shown = [*left, *right]
    end = max(now, drawn.started_at) if drawn.ended_at is None else drawn.ended_at
    end = max([end, *(row.ended_at for row in shown if row.ended_at is not None)])
    labels = {id(row): _label(row) for row in shown}
    label_columns = min(max(map(cell_len, labels.values())), LABEL_COLUMNS_MAX, columns // 3)
    scale = Scale(drawn.started_at, end - drawn.started_at, columns - label_columns - ABOUT_COLUMNS - 4)
    lines = [_scale_line(scale, label_columns)]
    for part in (left, right):
        lines += [_row_line(row, labels[id(row)], label_columns, scale, now, signs) for row in part]
        if part is left and len(shown) < len(rows):
            lines.append(Text(f"  … {len(rows) - len(shown):,} more rows (--rows 0 draws all) …", "dim"))
    return lines


def _parts(rows: Sequence[Row], rows_max: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return the first and the last rows to draw; all of them where there are no more than that, or there is no limit."""
    if rows_max <= 0 or len(rows) <= rows_max:
        return rows, ()
    first = rows_max // 2
    return rows[:first], rows[len(rows) - (rows_max - first) :]


def _label(row: Row) -> str:
    target = f" {row.target}" if row.target and row.kind is not RowKind.CHILD else ""
    kind = "" if row.kind is RowKind.MARK else row.kind.value
    name = "event" if row.kind is RowKind.WAIT else row.name
    return safe(" ".join(filter(None, (kind, name))) + target)


def _scale_line(scale: Scale, label_columns: int) -> Text:
    end = span_text(scale.span)
    gap = max(scale.columns - 1 - len(end), 1)
    return Text(" " * (label_columns + 2) + "0" + " " * gap + end, "dim")


def _row_line(row: Row, label: str, label_columns: int, scale: Scale, now: datetime, signs: Signs) -> Text:
    style = _STYLES[row.status]
    line = Text(_fitted(label, label_columns) + "  ", no_wrap=True)
    line.append(_bar(row, scale, now, signs).ljust(scale.columns), style)
    about = _about(row, now)
    if about:
        line.append("  " + (about if cell_len(about) <= ABOUT_COLUMNS else _fitted(about, ABOUT_COLUMNS)), "dim")
    line.rstrip()
    return line


def _fitted(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return set_cell_size(text, columns)
    return set_cell_size(text, columns - 1) + "…"


def _bar(row: Row, scale: Scale, now: datetime, signs: Signs) -> str:
    first = scale.column(row.started_at)
    if row.kind in _MOMENTS:
        return " " * first + (signs.failed if row.status is RowStatus.FAILED else signs.moment)
    last = scale.column(row.ended_at or now)
    cells = [(signs.quiet if row.kind in _QUIET else signs.busy)] * (last - first + 1)
    if row.attempts:
        cells = [signs.between] * len(cells)
        for attempt in row.attempts:
            begin, end = scale.column(attempt.started_at), scale.column(attempt.ended_at or row.ended_at or now)
            cells[begin - first : end - first + 1] = [signs.busy] * (end - begin + 1)
    mark = _END_MARKS.get(row.status)
    if mark is not None:
        cells[-1] = getattr(signs, mark)
    return " " * first + "".join(cells)


_END_MARKS: Final = {
    RowStatus.OPEN: "goes_on",
    RowStatus.LEFT: "goes_on",
    RowStatus.FAILED: "failed",
    RowStatus.CANCELLED: "ended",
}


def _about(row: Row, now: datetime) -> str:
    """Say in a few words how it went."""
    if row.kind in _MOMENTS:
        return ""
    words = []
    if len(row.attempts) > 1:
        words.append(f"{len(row.attempts)} tries")
    if row.status is RowStatus.OPEN and row.due_at is not None:
        words.append(f"{'again' if row.attempts else 'ends'} {_due(row.due_at, now)}")
    else:
        words.append(span_text((row.ended_at or now) - row.started_at))
    if row.status in (RowStatus.CANCELLED, RowStatus.LEFT):
        words.append({RowStatus.CANCELLED: "given up", RowStatus.LEFT: "runs on"}[row.status])
    return ", ".join(words)


def _due(when: datetime, now: datetime) -> str:
    return "now" if when <= now else age_text(when, now)


def waits(drawn: Timeline, now: datetime) -> Iterator[str]:
    """Say what an unfinished instance waits for now, a line for each open row."""
    for row in drawn.open_rows:
        if row.kind is RowKind.SUSPENSION:
            yield "to be resumed" + (f" (suspended: {safe(row.name)})" if row.name else "")
        else:
            yield _wait(row, now)


def _wait(row: Row, now: datetime) -> str:
    text = {
        RowKind.WAIT: AN_EVENT,
        RowKind.TIMER: "a timer",
        RowKind.LOCK: f"the lock of {safe(row.name)} {safe(row.target)}",
        RowKind.OPERATION: f"operation {safe(row.name)} {safe(row.target)}",
        RowKind.CHILD: f"child {safe(row.name)} ({safe(row.target)})",
        RowKind.DETACHED: f"the end of {safe(row.name)} ({safe(row.target)})",
    }.get(row.kind, f"{row.kind.value} {safe(row.name)}")
    if row.due_at is not None and not row.attempts:
        return f"{text}, {'time limit' if row.kind is RowKind.WAIT else 'due'} {_due(row.due_at, now)}"
    if row.due_at is not None:
        failed = f": {safe(str(row.error))}" if row.error is not None else ""
        return f"{text}, attempt {row.attempts[-1].number + 1} {_due(row.due_at, now)}, after a failure{failed}"
    if len(row.attempts) > 1:
        text += f", attempt {row.attempts[-1].number}"
    return f"{text}, for {span_text(now - row.started_at)}"
