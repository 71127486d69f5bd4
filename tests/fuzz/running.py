"""Feeds a decoder with inputs and keeps the tally.

What must hold of each input: the answer is a value, or one of the errors that the decoder documents, with a text of a
bounded length; it comes within `CPU_S_MAX`; and what was read, written again and read again, is the same value. Of a
sample of the inputs the memory is measured as well, since that is slow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from tests.fuzz.mutation import Mutator

CPU_S_MAX = 20.0
"""No input is long enough to need a tenth of a second; the rest is for a machine under load."""

MEMORY_BYTES_MAX = 8 * 1024 * 1024
MEMORY_PER_BYTE_MAX = 200
"""An empty dict is one byte of msgpack and takes 80 bytes of memory with its place in a list."""

MEASURED_EVERY = 100

ERROR_CHARACTERS_MAX = 2_000
"""An error text is read by people, and stored with what it is about."""


class Violation(AssertionError):
    """An input that was not answered as it must be."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One decoder, as it is fuzzed.

    `make` makes an input. `read` decodes it, and looks at all of the value that a user would look at. `write` encodes
    what `read` gave. `refusals` are the errors that it documents. `limit_bytes`: memory that it may take whatever the input.
    """

    name: str
    make: Mutator
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    refusals: type[Exception] | tuple[type[Exception], ...]
    limit_bytes: int = MEMORY_BYTES_MAX


@dataclasses.dataclass
class Tally:
    """What became of the inputs of one decoder. `violations`: what was wrong, and the input."""

    decoder: str
    seed: int
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    violations: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.decoder:<20} {self.inputs:>9,} inputs  {self.accepted:>9,} accepted  {self.refused:>9,} refused  "
            f"{len(self.violations):>3} violations"
        )


VIOLATIONS_MAX = 5
"""So many are enough to begin with."""


def run(decoder: Decoder, inputs: int, seed: int) -> Tally:
    """Feed so many inputs; the same seed makes the same ones."""
    tally = Tally(decoder.name, seed)
    chance = random.Random(f"{decoder.name} {seed}")
    for index in range(inputs):
        data = decoder.make(chance)
        tally.inputs += 1
        try:
            accepted = check(decoder, data, measured=index % MEASURED_EVERY == 0)
        except Violation as violation:
            tally.violations.append((str(violation), data))
            if len(tally.violations) == VIOLATIONS_MAX:
                break
        else:
            tally.accepted += accepted
            tally.refused += not accepted
    return tally


def check(decoder: Decoder, data: bytes, *, measured: bool = False) -> bool:
    """Return True if the input was accepted, False if it was refused. Raises Violation."""
    with _limited_time(), _limited_memory(decoder, data) if measured else contextlib.nullcontext():
        try:
            value = decoder.read(data)
        except decoder.refusals as refusal:
            _check_text(refusal)
            return False
        except Violation:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Violation(f"raised {type(error).__name__}: {str(error)[:300]!a}") from error
        _check_written_again(decoder, value)
    return True


def _check_text(refusal: Exception) -> None:
    text = str(refusal)
    if len(text) > ERROR_CHARACTERS_MAX:
        raise Violation(f"the text of {type(refusal).__name__} has {len(text)} characters")


def _check_written_again(decoder: Decoder, value: Any) -> None:
    try:
        written = decoder.write(value)
        again = decoder.read(written)
        same = again == value or decoder.write(again) == written  # not a number is not equal to itself
    except Exception as error:
        raise Violation(
            f"read, but not written and read again: {type(error).__name__}: {str(error)[:300]!a}"
        ) from error
    if not same:
        raise Violation(f"written and read again it is another value: {value!a:.200} became {again!a:.200}")


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Interrupt what spins. Signals are the main thread's, elsewhere the test's own timeout must do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise Violation(f"took more than {CPU_S_MAX} s")


@contextlib.contextmanager
def _limited_memory(decoder: Decoder, data: bytes) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = decoder.limit_bytes + MEMORY_PER_BYTE_MAX * len(data)
    if peak > bound:
        raise Violation(f"took {peak:,} bytes of memory for {len(data):,} bytes; at most {bound:,} were expected")
