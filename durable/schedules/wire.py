"""Schedules as bytes: what a schedule is, where it stands, and what is sent to it.

Each schedule is an eternal instance of a kind of its own. The input of a generation is a `Standing`, which holds all that it
needs, also the next times: they depend on the time zone database of the machine that works them out, and are recorded so.
Between generations the custom status shows where the schedule stands.

Every decoder here raises PayloadError, and nothing else, for whatever plain data.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Final, TypeVar

from durable.events import InstanceKey
from durable.model import OverlapPolicy
from durable.payloads import PayloadError
from durable.records import reason_of, require
from durable.schedules.times import Cron, Every, Once, Times

T = TypeVar("T")

KIND: Final = "s"
"""The kind of the instances behind schedules: their ids are no user's."""

PROGRAM: Final = "durable.schedules"
"""The name of what runs them."""

COMMAND: Final = "durable.schedules/command"

INTERVAL_MIN_US: Final = 10_000
"""A shorter interval is a loop: what is to run all the time is an orchestration of its own."""

ANSWERS_MAX: Final = 50
"""Commands whose answers a schedule remembers; who has sent one looks for it at once."""


def key_of(schedule_id: str) -> InstanceKey:
    """Return the key of a schedule's instance."""
    return InstanceKey(schedule_id, KIND)


class TargetKind(enum.StrEnum):
    """What a schedule starts; NAME where only a worker can tell whether it is an orchestrator or an activity."""

    ORCHESTRATOR = "o"
    JOBS = "j"
    NAME = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TargetSpec:
    """What is started at each time. `payload`: the encoded input; of JOBS the encoded `TreeInput`."""

    kind: TargetKind
    name: str
    version: str | None
    payload: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule as it was asked for. Times in microseconds. Exactly one of `cron`, `interval_us` and `at_us` is set."""

    target: TargetSpec
    cron: str | None = None
    interval_us: int | None = None
    at_us: int | None = None
    timezone: str = "UTC"
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catch_up_us: int = 3600 * 1_000_000
    jitter_us: int = 0
    start_us: int | None = None
    end_us: int | None = None

    def times(self, anchor_us: int) -> Times:
        """Return its times, without regard to its end. An interval counts from its start, or else from `anchor_us`."""
        if self.cron is not None:
            return Cron(self.cron, self.timezone)
        if self.interval_us is not None:
            return Every(self.interval_us, anchor_us if self.start_us is None else self.start_us)
        assert self.at_us is not None, "a schedule has times"
        return Once(self.at_us)

    def following(self, after_us: int, anchor_us: int) -> int | None:
        """Return the first of its times after a moment, within start and end; None if there is none."""
        if self.start_us is not None:
            after_us = max(after_us, self.start_us - 1)
        found = self.times(anchor_us).following(after_us)
        return None if found is not None and self.end_us is not None and found > self.end_us else found


_TARGET: Final = tuple(field.name for field in dataclasses.fields(TargetSpec))
_USUAL: Final = {field.name: field.default for field in dataclasses.fields(ScheduleSpec) if field.name != "target"}

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "target": list,
    "cron": (str, NoneType),
    "interval_us": (int, NoneType),
    "at_us": (int, NoneType),
    "timezone": str,
    "overlap": str,
    "catch_up_us": int,
    "jitter_us": int,
    "start_us": (int, NoneType),
    "end_us": (int, NoneType),
}
"""What each field of a `ScheduleSpec` is on the wire, exactly."""

TIMING: Final = ("cron", "interval_us", "at_us")


def spec_to_plain(spec: ScheduleSpec) -> dict[str, Any]:
    """Return a schedule as msgpack carries it: what is not as usual."""
    changed = {name: getattr(spec, name) for name, usual in _USUAL.items() if getattr(spec, name) != usual}
    return changes_to_plain({"target": spec.target, **changed})


def changes_to_plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return some fields of a schedule as msgpack carries them."""
    return {name: _to_plain(value) for name, value in changes.items()}


def _to_plain(value: Any) -> Any:
    if isinstance(value, TargetSpec):
        return [value.kind.value, value.name, value.version, value.payload]
    return value.value if isinstance(value, OverlapPolicy) else value


def changes_from_plain(plain: Any) -> dict[str, Any]:
    """Read fields of a schedule; those of later versions are ignored. Raises anything for what are none."""
    require(dict, plain)
    return {name: _from_plain(name, value) for name, value in plain.items() if name in _TYPES}


def _from_plain(name: str, plain: Any) -> Any:
    require(_TYPES[name], plain)
    if name == "overlap":
        return OverlapPolicy(plain)
    if name != "target":
        return plain
    kind, called, version, payload = plain[:4]
    require(str, kind, called)
    require((str, NoneType), version)
    require((bytes, NoneType), payload)
    return TargetSpec(TargetKind(kind), called, version, payload)


def spec_from_plain(plain: Any) -> ScheduleSpec:
    """Read what `spec_to_plain` gave. Raises anything for what is none."""
    return checked(ScheduleSpec(**changes_from_plain(plain)))


def checked(spec: ScheduleSpec) -> ScheduleSpec:
    """Return a schedule that has just one kind of times, and numbers that can be meant. Raises ValueError, TypeError."""
    if sum(getattr(spec, name) is not None for name in TIMING) != 1:
        raise ValueError("a schedule has cron=, interval= or at=, and just one of them")
    if spec.interval_us is not None and spec.interval_us < INTERVAL_MIN_US:
        raise ValueError(f"interval must be at least {INTERVAL_MIN_US / 1e6:g} s, not {spec.interval_us / 1e6:g} s")
    if spec.catch_up_us < 0 or spec.jitter_us < 0:
        raise ValueError("catch_up and jitter must not be negative")
    if spec.start_us is not None and spec.end_us is not None and spec.end_us < spec.start_us:
        raise ValueError("end must not be before start")
    spec.times(0)  # raises for an expression or a zone that is none
    return spec


def changed(spec: ScheduleSpec, changes: Mapping[str, Any]) -> ScheduleSpec:
    """Return a schedule with other fields; another kind of times takes the place of the former. Raises as `checked`."""
    others: dict[str, Any] = dict.fromkeys(TIMING) if set(TIMING) & set(changes) else {}
    return checked(dataclasses.replace(spec, **(others | dict(changes))))


@dataclasses.dataclass(frozen=True, slots=True)
class Occurrence:
    """What was started for a time, and has not ended as far as the schedule knows."""

    time_us: int
    instance_id: str
    run_id: str
    is_told_to_end: bool = False


@dataclasses.dataclass(slots=True)
class Standing:
    """Where a schedule stands at the beginning of a generation.

    `last_us`: its times up to here are done with. `times`: the next ones, None where they are still to be worked out.
    `declared`: what its declaration in code was when it was last looked at. `recent`: the latest starts, (time, when).
    `answers`: by the mark of a command, None or why it was refused.
    """

    spec: ScheduleSpec
    created_us: int
    last_us: int
    times: list[int] | None = None
    is_paused: bool = False
    note: str = ""
    buffered: list[int] = dataclasses.field(default_factory=list)
    running: list[Occurrence] = dataclasses.field(default_factory=list)
    started: int = 0
    skipped: int = 0
    missed: int = 0
    recent: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    declared: ScheduleSpec | None = None
    answers: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return the input of a generation."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "spec": spec_to_plain(self.spec),
            "declared": None if self.declared is None else spec_to_plain(self.declared),
            "running": [dataclasses.astuple(occurrence) for occurrence in self.running],
            "recent": [list(start) for start in self.recent],
        }

    @classmethod
    def decode(cls, plain: Any) -> Standing:
        """Read the decoded input of a generation."""
        return _read("where a schedule stands", lambda: cls._from_plain(plain))

    @classmethod
    def _from_plain(cls, plain: Any) -> Standing:
        require(dict, plain, plain["answers"])
        require(int, *(plain[name] for name in ("created_us", "last_us", "started", "skipped", "missed")))
        require(list, plain["buffered"], plain["running"], plain["recent"], plain["times"] or [])
        require(int, *(plain["times"] or ()), *plain["buffered"])
        require(bool, plain["is_paused"])
        require(str, plain["note"], *plain["answers"])
        require((str, NoneType), *plain["answers"].values())
        declared = None if plain["declared"] is None else spec_from_plain(plain["declared"])
        known = {field.name: plain[field.name] for field in dataclasses.fields(cls)}
        return cls(
            **known
            | {
                "spec": spec_from_plain(plain["spec"]),
                "declared": declared,
                "running": [_occurrence(item) for item in plain["running"]],
                "recent": [_start(item) for item in plain["recent"]],
            }
        )


def _occurrence(plain: Any) -> Occurrence:
    require(list, plain)
    time_us, instance_id, run_id, is_told_to_end = plain[:4]
    require(int, time_us)
    require(str, instance_id, run_id)
    require(bool, is_told_to_end)
    return Occurrence(time_us, instance_id, run_id, is_told_to_end)


def _start(plain: Any) -> tuple[int, int]:
    require(list, plain)
    time_us, started_us = plain[:2]
    require(int, time_us, started_us)
    return time_us, started_us


class Do(enum.StrEnum):
    """What a command to a schedule is about."""

    CHANGE = "change"
    PAUSE = "pause"
    RESUME = "resume"
    START = "start"
    DECLARE = "declare"


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What a schedule is told. `mark`: by which its answer is found.

    CHANGE brings `changes`, DECLARE all that the declaration in code now says; START the `times` to start now, and how they
    and what runs go together (None: by the schedule's own policy).
    """

    do: Do
    mark: str
    note: str = ""
    times: Sequence[int] = ()
    overlap: OverlapPolicy | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it as an event's data."""
        return {
            "do": self.do.value,
            "mark": self.mark,
            "note": self.note,
            "times": list(self.times),
            "overlap": None if self.overlap is None else self.overlap.value,
            "changes": changes_to_plain(self.changes),
        }

    @classmethod
    def decode(cls, plain: Any) -> Command:
        """Read it from the decoded payload of an event."""
        return _read("a command to a schedule", lambda: cls._from_plain(plain))

    @classmethod
    def _from_plain(cls, plain: Any) -> Command:
        require(dict, plain)
        require(str, plain["do"], plain["mark"], plain["note"])
        require(list, plain["times"])
        require(int, *plain["times"])
        overlap = None if plain["overlap"] is None else OverlapPolicy(plain["overlap"])
        changes = changes_from_plain(plain["changes"])
        return cls(Do(plain["do"]), plain["mark"], plain["note"], plain["times"], overlap, changes)


def _read(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except PayloadError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact
        raise PayloadError(f"{what} cannot be read: {reason_of(error)}") from error
