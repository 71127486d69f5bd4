"""What the core does not make by itself: time, ids and threads are handed in, so that a simulator can hand in its own."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """The machine, as far as workers, clients and providers may see it.

    `now_us`: the wall clock, in microseconds since 1970 UTC; it may jump. `monotonic`: seconds, never going back, and going
    on while the machine sleeps.
    `new_id`: a new unique id of 32 hexadecimal digits, ordered by time as far as the clock is. `run_blocking`: runs a
    blocking function outside the event loop. `may_start_threads`: False where everything must run in the one thread of
    the event loop, in an order that only it decides: then sync activities and all storage run inline, and nobody watches
    over turns.
    """

    now_us: Callable[[], int]
    monotonic: Callable[[], float]
    new_id: Callable[[], str]
    run_blocking: Callable[[Callable[[], Any]], Awaitable[Any]]
    may_start_threads: bool = True


def wall_clock_us() -> int:
    """Return the system's time in whole microseconds since 1970 UTC."""
    return time.time_ns() // 1000


_SLEEPLESS_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts on while the machine sleeps: on Linux the clock since the boot, on macOS what is called monotonic there. Python's
`time.monotonic` stands still meanwhile on both: a laptop that wakes up would take the time for wrong by hours."""


seconds_since_boot: Callable[[], float] = functools.partial(time.clock_gettime, _SLEEPLESS_CLOCK)
"""Gives a time that never goes back, in seconds, with those in which the machine slept."""


def time_ordered_id() -> str:
    """Return a new id: 48 bits of milliseconds, then 80 random bits (the layout of UUID version 7, without its marks).

    Rows that are written together so lie together in the store's indexes.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


async def run_in_thread(function: Callable[[], T]) -> T:
    """Run `function` in the loop's default thread pool."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


def system_ports() -> Ports:
    """Return the ports of a real process."""
    return Ports(wall_clock_us, seconds_since_boot, time_ordered_id, run_in_thread)
