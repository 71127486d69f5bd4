"""The timeline of an instance in columns of a terminal: a line for each row, with a bar that is to scale.

    activity charge        ██████░░░░████▶        2 attempts, again in 12 s
    timer                  ──────────╴            30 s
    event approved               ◆

A bar is solid while an attempt runs and light between two; a mark is a moment. An arrow is what goes on. Where a screen has
ASCII only, other signs stand for them.
"""

from __future__ import annotations

import dataclasses
import itertools
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
"""Lines drawn unless more are asked for."""

ALIKE_MIN: Final = 3
"""So many rows alike, where there are too many, are one line."""

TARGET_COLUMNS_MAX: Final = 16
"""The id of a child is shown beside its name if it is no longer: an id that nobody has chosen is."""

_MOMENTS: Final = frozenset({RowKind.EVENT, RowKind.SENT, RowKind.PERFORMED, RowKind.MARK})
_NOTABLE: Final = frozenset({RowKind.EVENT, RowKind.MARK, RowKind.SUSPENSION})
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """One line to draw: a row, or several alike. `spans`: what is solid; None for an end: it goes on."""

    label: str
    about: str
    kind: RowKind
    status: RowStatus
    spans: Sequence[tuple[datetime, datetime | None]]
    is_notable: bool

    @property
    def end(self) -> datetime | None:
        """When all of it was over."""
        ends = [end for _, end in self.spans]
        return None if None in ends else max(end for end in ends if end is not None)


def drawn_lines(
    drawn: Timeline, now: datetime, columns: int, *, rows_max: int = ROWS_MAX, signs: Signs = UNICODE
) -> list[Text]:
    """Return a timeline as lines of at most so many columns: its scale, and a line for each row.

    Where there are more than `rows_max` rows (0: no limit), rows that follow each other and are alike are one line; and of
    lines, those are left out first that are in the middle and that nothing out of the ordinary has happened to.
    """
    if not drawn.rows or drawn.started_at is None:
        return []
    columns = min(max(columns, COLUMNS_MIN), COLUMNS_MAX)
    is_short = rows_max == 0 or len(drawn.rows) <= rows_max
    bars = [_of_row(row, now) for row in drawn.rows] if is_short else list(_gathered(drawn.rows, now))
    kept = range(len(bars)) if rows_max == 0 else _kept(bars, rows_max)
    shown = [bars[at] for at in kept]
    end = max(now, drawn.started_at) if drawn.ended_at is None else drawn.ended_at
    end = max([end, *(bar.end for bar in shown if bar.end is not None)])
    label_columns = min(max(cell_len(bar.label) for bar in shown), LABEL_COLUMNS_MAX, columns // 3)
    scale = Scale(drawn.started_at, end - drawn.started_at, columns - label_columns - ABOUT_COLUMNS - 4)
    lines = [_scale_line(scale, label_columns)]
    before = -1
    for at in [*kept, len(bars)]:
        if at - before > 1:
            lines.append(Text(f"  … {at - before - 1:,} more (--rows 0 draws all)", "dim"))
        if at < len(bars):
            lines.append(_line(bars[at], label_columns, scale, now, signs))
        before = at
    return lines


def _of_row(row: Row, now: datetime) -> _Bar:
    spans = [(attempt.started_at, attempt.ended_at) for attempt in row.attempts] or [(row.started_at, row.ended_at)]
    if row.attempts and row.status is RowStatus.OPEN and row.due_at is not None:
        spans.append((now, None))  # between two attempts: the bar goes on to now
    is_notable = row.status is not RowStatus.COMPLETED or len(row.attempts) > 1 or row.kind in _NOTABLE
    return _Bar(_label(row), _about(row, now), row.kind, row.status, spans, is_notable)


def _gathered(rows: Sequence[Row], now: datetime) -> Iterator[_Bar]:
    """Yield a bar for each row, and one for those that follow each other and are alike, and went as they should."""
    for _, group in itertools.groupby(enumerate(rows), lambda item: _likeness(*item)):
        alike = [row for _, row in group]
        bars = [_of_row(row, now) for row in alike]
        if len(alike) < ALIKE_MIN:
            yield from bars
            continue
        spans = [span for bar in bars for span in bar.spans]
        ends = [row.ended_at for row in alike if row.ended_at is not None]
        about = f"{len(alike):,} in {span_text(max(ends) - alike[0].started_at)}"
        name = f"{_label(dataclasses.replace(alike[0], target=''))} x {len(alike):,}"
        yield _Bar(name, about, alike[0].kind, RowStatus.COMPLETED, spans, False)


def _likeness(at: int, row: Row) -> object:
    """Return what rows that can be drawn as one have in common; of any other row, its place."""
    is_ordinary = row.status is RowStatus.COMPLETED and len(row.attempts) < 2 and row.kind not in _MOMENTS
    return (row.kind, row.name) if is_ordinary and row.ended_at is not None else at


def _kept(bars: Sequence[_Bar], bars_max: int) -> Sequence[int]:
    """Return which bars are drawn: the first and the last ones, and in between what is out of the ordinary."""
    if len(bars) <= bars_max:
        return range(len(bars))
    edge = max(bars_max // 4, 1)
    between = range(edge, len(bars) - edge)
    notable = [at for at in between if bars[at].is_notable][-(bars_max - 2 * edge) :]
    others = [at for at in between if not bars[at].is_notable]
    room = bars_max - 2 * edge - len(notable)
    return sorted([*range(edge), *notable, *others[len(others) - room :], *range(len(bars) - edge, len(bars))])


def _label(row: Row) -> str:
    is_telling = row.kind is not RowKind.CHILD or cell_len(row.target) <= TARGET_COLUMNS_MAX
    kind = "" if row.kind is RowKind.MARK else row.kind.value
    name = "event" if row.kind is RowKind.WAIT else row.name
    return safe(" ".join(filter(None, (kind, name, row.target if is_telling else ""))))


def _scale_line(scale: Scale, label_columns: int) -> Text:
    end = span_text(scale.span)
    gap = max(scale.columns - 1 - len(end), 1)
    return Text(" " * (label_columns + 2) + "0" + " " * gap + end, "dim")


def _line(bar: _Bar, label_columns: int, scale: Scale, now: datetime, signs: Signs) -> Text:
    line = Text(_fitted(bar.label, label_columns) + "  ", no_wrap=True)
    line.append(_cells(bar, scale, now, signs).ljust(scale.columns), _STYLES[bar.status])
    if bar.about:
        line.append("  " + _fitted(bar.about, ABOUT_COLUMNS), "dim")
    line.rstrip()
    return line


def _fitted(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return set_cell_size(text, columns)
    return set_cell_size(text, columns - 1) + "…"


def _cells(bar: _Bar, scale: Scale, now: datetime, signs: Signs) -> str:
    first = scale.column(bar.spans[0][0])
    if bar.kind in _MOMENTS:
        return " " * first + (signs.failed if bar.status is RowStatus.FAILED else signs.moment)
    places = [(scale.column(begin), scale.column(end or now)) for begin, end in bar.spans]
    last = max(end for _, end in places)
    cells = [signs.between] * (last - first + 1)
    for begin, end in places:
        cells[begin - first : end - first + 1] = [(signs.quiet if bar.kind in _QUIET else signs.busy)] * (
            end - begin + 1
        )
    mark = _END_MARKS.get(bar.status)
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
