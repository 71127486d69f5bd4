"""When a schedule's times are: pure, in whole microseconds since 1970 UTC. No clock is read.

Cron expressions are parsed, and matched with the calendar, by `cronsim`, on times without a zone. What a zone's clock makes
of that is decided here, for all zones and all expressions alike:

 1. An expression that names its times of the day (no `*` and no step in the hour and minute fields) means the time that the
    wall clock shows. One that the clock skips fires once, at the end of the gap; one that it shows twice fires the first time.
 2. Any other expression follows elapsed time: it fires whenever the clock shows a time that matches, also in both passes of a
    doubled hour, and in a gap there is nothing that could match.
"""

from __future__ import annotations

import dataclasses
import functools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Protocol

from cronsim import CronSim, CronSimError

SECOND_US: Final = 1_000_000

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SECOND: Final = timedelta(seconds=1)

LOOK_AHEAD: Final = timedelta(hours=6)
"""How far apart a zone's clock is looked at in search of a change. No zone has ever changed it twice in so short a time."""

FIELDS: Final = (5, 6)

_WITHOUT_ZONE: Final = EPOCH.replace(tzinfo=None)


class Times(Protocol):
    """The times of a schedule."""

    def following(self, after_us: int) -> int | None:
        """Return the first time after a moment; None if there is none any more."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Once:
    """One time."""

    at_us: int

    def following(self, after_us: int) -> int | None:
        """See `Times`."""
        return self.at_us if self.at_us > after_us else None


@dataclasses.dataclass(frozen=True, slots=True)
class Every:
    """Times at equal distances, one of them at `anchor_us`."""

    interval_us: int
    anchor_us: int

    def following(self, after_us: int) -> int | None:
        """See `Times`."""
        return self.anchor_us + ((after_us - self.anchor_us) // self.interval_us + 1) * self.interval_us


@dataclasses.dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression in a zone. Raises ValueError for an expression or a zone that is none."""

    expression: str
    timezone: str

    def __post_init__(self) -> None:
        fields_of(self.expression)
        zone_of(self.timezone)

    def following(self, after_us: int) -> int | None:
        """See `Times`."""
        after = EPOCH + timedelta(seconds=after_us // SECOND_US)
        find = _elapsed if follows_elapsed_time(self.expression) else _by_the_clock
        try:
            found = find(self.expression, zone_of(self.timezone), after)
        except OverflowError:  # beyond the calendar
            return None
        return None if found is None else (found - EPOCH) // SECOND * SECOND_US


def fields_of(expression: str) -> list[str]:
    """Return the fields of a cron expression, which may begin with one for seconds. Raises TypeError, ValueError."""
    if not isinstance(expression, str):
        raise TypeError(f"a cron expression is a string, not {expression!r:.200}")
    fields = expression.split()
    if len(fields) not in FIELDS:
        raise ValueError(
            f"cron expression {expression!r:.100} has {len(fields)} fields: write minute, hour, day of month, month and day of "
            "week, with seconds before them if need be"
        )
    try:
        _matches(expression, _WITHOUT_ZONE)
    except CronSimError as error:
        raise ValueError(f"cron expression {expression!r:.100}: {error}") from error
    return fields


@functools.lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database. Raises TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"a time zone is named by a string such as 'Europe/Berlin', not {name!r:.200}")
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"time zone {name!r:.100} is not known here; a system without a time zone database needs `pip install tzdata`"
        ) from error


@functools.lru_cache(maxsize=1024)
def follows_elapsed_time(expression: str) -> bool:
    """Tell whether an expression goes by elapsed time: one with a star or a step in its hour or minute field."""
    *_, minute, hour, _, _, _ = expression.split()
    return any(sign in field for field in (minute, hour) for sign in "*/")


def _matches(expression: str, after: datetime) -> Iterator[datetime]:
    """Yield the times after one, all without a zone, that match an expression; ends after 50 years without a match."""
    return iter(CronSim(expression, after))


def _by_the_clock(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    wall = after.astimezone(zone).replace(tzinfo=None)
    for match in _matches(expression, wall):
        found = shown_first(match, zone)
        if found > after:  # else the clock showed it twice, and this is the second time; or it ended the gap before
            return found
    return None


def _elapsed(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    while True:
        offset = _offset(after, zone)
        match = next(_matches(expression, (after + offset).replace(tzinfo=None)), None)
        if match is None:
            return None
        found = match.replace(tzinfo=UTC) - offset
        change = _first_change(after, found, zone)
        if change is None:
            return found
        # The clock changes before that: until then nothing matches, and from then on it goes on from another time.
        if _is_match(expression, (change + _offset(change, zone)).replace(tzinfo=None)):
            return change
        after = change


def _is_match(expression: str, wall: datetime) -> bool:
    return next(_matches(expression, wall - SECOND), None) == wall


def shown_first(wall: datetime, zone: tzinfo) -> datetime:
    """Return when a zone's clock first shows a time; of one that it skips, when the gap ends. In UTC."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if second >= first:
        return first  # it shows it once, or twice
    # In a gap the clock as it was before shows it too late, and as it is afterwards too early: the change is in between.
    change = _first_change(second, first, zone)
    assert change is not None, f"{zone} skips {wall}"
    return change


def _first_change(after: datetime, until: datetime, zone: tzinfo) -> datetime | None:
    """Return the first second after one moment, and not after another, at which a zone's offset is a new one."""
    offset = _offset(after, zone)
    while after < until:
        look = min(after + LOOK_AHEAD, until)
        if _offset(look, zone) != offset:
            while look - after > SECOND:
                middle = after + (look - after) // 2 // SECOND * SECOND
                if _offset(middle, zone) == offset:
                    after = middle
                else:
                    look = middle
            return look
        after = look
    return None


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
