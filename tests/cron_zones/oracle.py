"""When cron expressions fire, found out in the most plodding way: look at the clock of a zone every minute, and write it down.

It shares nothing with `durable.schedules.times` but the standard library's time zones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

MINUTE = timedelta(minutes=1)
LOOK = timedelta(hours=3)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))

Fields = Sequence[frozenset[int]]


def parsed(expression: str) -> Fields:
    """Return the numbers that each field allows: lists, ranges, steps and stars of numbers."""
    return [
        frozenset(number for term in field.split(",") for number in _numbers(term, *bounds))
        for field, bounds in zip(expression.split(), RANGES, strict=True)
    ]


def _numbers(term: str, lowest: int, highest: int) -> range:
    span, _, step = term.partition("/")
    first, _, last = (str(lowest), "", str(highest)) if span == "*" else span.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def is_match(fields: Fields, wall: datetime) -> bool:
    """Tell whether a time of the clock matches; days by both fields, as where one of them is a star."""
    shown = (wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday() % 7)
    return all(number in field for number, field in zip(shown, fields, strict=True))


def elapsed(fields: Fields, zone: ZoneInfo, first: datetime, last: datetime) -> list[datetime]:
    """Return each minute from `first` to `last` at which the clock shows a matching time."""
    return [at for at in minutes(first, last) if is_match(fields, wall_of(at, zone))]


def by_the_clock(fields: Fields, zone: ZoneInfo, first: datetime, last: datetime) -> list[datetime]:
    """Return when the clock shows each matching time first, or, where it skips that, the first it shows after it."""
    found: set[datetime] = set()
    seen: set[datetime] = set()
    newest = wall_of(first - MINUTE, zone)
    for at in minutes(first, last):
        wall = wall_of(at, zone)
        skipped = newest + MINUTE
        while skipped < wall:
            if is_match(fields, skipped):
                found.add(at)
            skipped += MINUTE
        if wall not in seen and wall > newest and is_match(fields, wall):
            found.add(at)
        seen.add(wall)
        newest = max(newest, wall)
    return sorted(found)


def minutes(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += MINUTE


def wall_of(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def changes(zone: ZoneInfo, first: datetime, last: datetime) -> list[datetime]:
    """Return about when a zone's clock changes: moments at most LOOK before it does."""
    found, at, offset = [], first, first.astimezone(zone).utcoffset()
    while at < last:
        at += LOOK
        now = at.astimezone(zone).utcoffset()
        if now != offset:
            found.append(at - LOOK)
            offset = now
    return found


def distinct_zones(first: datetime, last: datetime) -> dict[str, list[datetime]]:
    """Return the zones of the world, of those whose clocks change alike one, with these changes."""
    found: dict[tuple[object, ...], tuple[str, list[datetime]]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        changed = changes(zone, first, last)
        key = (first.astimezone(zone).utcoffset(), *((at, (at + LOOK).astimezone(zone).utcoffset()) for at in changed))
        found.setdefault(key, (name, changed))
    return dict(found.values())


def year(number: int) -> datetime:
    return datetime(number, 1, 1, tzinfo=UTC)
