"""Cron times around the changes of a zone's clock, against the oracle.

Goal: in every zone a named time fires exactly once a day, and any other expression as often as the clock shows it. Method: for
each change of the clock compare all times of some expressions, from a day before it to a day after, with what the oracle finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from durable.schedules.times import EPOCH, SECOND, SECOND_US, Cron, follows_elapsed_time
from tests.cron_zones.oracle import by_the_clock, elapsed, parsed

AROUND = timedelta(hours=26)

EXPRESSIONS = (
    "0 0 * * *",
    "30 0,1,2,3 * * *",
    "15,45 23 * * *",
    "0 12 * * 5",
    "*/20 * * * *",
    "10 */2 * * *",
    "*/30 0-3 * * *",
)


def fired(expression: str, zone: str, first: datetime, last: datetime) -> list[datetime]:
    """Return the times of an expression from one moment to another, both included."""
    times = Cron(expression, zone)
    time: int | None = (first - EPOCH) // SECOND * SECOND_US - 1
    found: list[datetime] = []
    while True:
        assert time is not None
        time = times.following(time)
        if time is None or EPOCH + timedelta(microseconds=time) > last:
            return found
        found.append(EPOCH + timedelta(microseconds=time))


def violations(zone: str, changes: Iterable[datetime], expressions: Iterable[str] = EXPRESSIONS) -> Iterator[str]:
    """Yield what is wrong around the changes of a zone's clock."""
    clock = ZoneInfo(zone)
    for change in changes:
        first, last = change - AROUND, change + AROUND
        for expression in expressions:
            find = elapsed if follows_elapsed_time(expression) else by_the_clock
            expected = find(parsed(expression), clock, first, last)
            found = fired(expression, zone, first, last)
            if found != expected:
                told = [
                    sorted(at.isoformat() for at in one)
                    for one in (set(expected) - set(found), set(found) - set(expected))
                ]
                yield f"{zone}, around {change:%Y-%m-%d}, '{expression}': missing {told[0]}, too many {told[1]}"
