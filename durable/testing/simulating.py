"""A user's own scenario under drawn faults: `simulate`.

A failing schedule is made small by trying: single faults at each change of the store, then the sets of its own faults, smaller
ones first. There are so few of them that this finds the fewest by itself, the same way each time, with nothing installed;
a shrinker of general use would have to be told what is simple here, and would take more runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from durable.app import App
from durable.client import Client
from durable.errors import DurableError
from durable.injection import Dependencies
from durable.signatures import AnyFunction
from durable.testing.simulation.faults import SPANS_S, Fault, Schedule, draw_schedule
from durable.testing.simulation.running import Outcome, run_schedule
from durable.testing.staging import Stage
from durable.testing.substitutes import Substitutes

SEEDS: Final = 2**31
STORY_LINES_MAX: Final = 120
TRIES_MAX: Final = 200
"""Schedules that are tried in each way of making a failing one smaller; of eight faults, that is all sets up to four."""


@dataclasses.dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulation that found nothing has gone through. `simulated_seconds`: the time that passed in it."""

    schedules: int
    seed: int
    faults: int
    storage_calls: int
    simulated_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.schedules:,} schedules with {self.faults:,} faults held: {self.storage_calls:,} storage calls in "
            f"{self.simulated_seconds / 3600:,.1f} simulated hours (seed {self.seed})"
        )


class SimulationFailedError(DurableError, AssertionError):
    """What a scenario asserts does not hold under some schedule, or without any fault.

    The text says what failed, how to repeat it, and what happened, step by step; the error itself is the cause. `schedule`
    is the smallest one found, `seed` the one that draws the failing schedule.
    """

    def __init__(self, message: str, schedule: Schedule, seed: int | None = None) -> None:
        super().__init__(message)
        self.schedule = schedule
        self.seed = seed


def simulate(
    app: App,
    scenario: Callable[[Client], Coroutine[Any, Any, object]],
    *,
    schedules: int = 1000,
    seed: int | None = None,
    dependencies: Dependencies | None = None,
    fakes: Mapping[AnyFunction | str, AnyFunction] | None = None,
) -> Simulation:
    """Play `async def scenario(client)` once without faults and then under `schedules` drawn ones; all of it must hold.

    A schedule says how many workers there are, and what goes wrong at which storage call: workers are killed and stopped,
    calls fail or are made twice, answers and notifications are lost, clocks jump. All of it runs in memory, in one thread
    and in simulated time; the framework's own promises are checked beside what the scenario asserts. Each schedule plays
    the scenario anew, so that whatever it compares with, such as a fake bank, must begin anew in it.

    `dependencies`: what each worker brings along, as in `Worker`; what is not given raises where an activity wants it. A
    factory is called whenever a worker starts, also again after a crash: what outlives that, such as the fake bank, is given
    as a value. `fakes`: what runs in the place of activities, by function or name, as in `Environment.replace`.

    Schedule number k is drawn from `seed` + k; None: a random seed, which a failure tells. Raises SimulationFailedError,
    an AssertionError, for the first schedule that fails, with the fewest faults that still make it fail.
    """
    __tracebackhide__ = True  # pytest then shows the test and the text
    if type(schedules) is not int or schedules < 0:
        raise ValueError(f"schedules must be a number of 0 or more, not {schedules!r:.200}")
    base = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    play = _Play(app, scenario, dependencies, fakes)
    plain = play(Schedule(0))
    if not plain.is_good:
        told = play(plain.schedule, is_traced=True)
        raise SimulationFailedError(_report(told, "fails without any fault", None), told.schedule) from told.error
    faults, calls, seconds = 0, plain.calls, plain.seconds
    for drawn_from in range(base, base + schedules):
        outcome = play(draw_schedule(drawn_from, plain.calls, changes=plain.changes))
        if not outcome.is_good:
            _explain(play, outcome, drawn_from)
        faults += len(outcome.struck)
        calls += outcome.calls
        seconds += outcome.seconds
    return Simulation(schedules, base, faults, calls, seconds)


class _Play:
    """An app and a scenario, to be run under schedules."""

    def __init__(
        self,
        app: App,
        scenario: Callable[[Client], Coroutine[Any, Any, object]],
        dependencies: Dependencies | None,
        fakes: Mapping[AnyFunction | str, AnyFunction] | None,
    ) -> None:
        if not isinstance(app, App):
            raise TypeError(f"simulate takes an App, not {app!r:.200}")
        if not callable(scenario):
            raise TypeError(f"simulate takes a scenario, `async def scenario(client)`, not {scenario!r:.200}")
        self.name = getattr(scenario, "__name__", "scenario")
        self._app = app
        self._scenario = scenario
        self._dependencies = dependencies
        self._stage: Stage | None = None
        if fakes:
            substitutes = Substitutes(app)
            for activity, fake in fakes.items():
                substitutes.replace(activity, fake)
            self._stage = substitutes.stage
        self.options = "".join(
            f", {name}=…" for name, given in (("dependencies", dependencies), ("fakes", fakes)) if given
        )

    def __call__(self, schedule: Schedule, *, is_traced: bool = False) -> Outcome:
        return run_schedule(
            self._app,
            self._scenario,
            schedule,
            stage=self._stage,
            dependencies=self._dependencies,
            is_traced=is_traced,
        )


def _explain(play: _Play, failed: Outcome, seed: int) -> None:
    """Raise what a failing schedule has shown, made as small as it can be."""
    __tracebackhide__ = True
    again = play(failed.schedule, is_traced=True)
    repeat = f"repeat it with: simulate(app, {play.name}, schedules=1, seed={seed}{play.options})"
    if again.is_good:
        repeat += (
            "\nRun again under the very same schedule it held. So it depends on something else: on what an earlier run left "
            "behind, on real time, threads, or chance that is not ctx.random."
        )
        text = _report(failed, "fails under a schedule of faults", repeat)
        raise SimulationFailedError(text, failed.schedule, seed) from failed.error
    small = play(_smallest(_Failing(play, again), again.schedule), is_traced=True)
    text = _report(small, _under(small), repeat)
    raise SimulationFailedError(text, small.schedule, seed) from small.error


def _under(outcome: Outcome) -> str:
    count = len(outcome.struck)
    faults = (
        "a single fault" if count == 1 else f"{count} faults" if count else "no fault at all, but that order of things"
    )
    return f"fails with {faults}"


# ---- making it small


class _Failing:
    """Tells whether a schedule fails in the way that a run has shown."""

    def __init__(self, play: _Play, shown: Outcome) -> None:
        self.play = play
        self._shown = shown

    def __call__(self, schedule: Schedule) -> bool:
        outcome = self.play(schedule)
        if outcome.is_good or type(outcome.error) is not type(self._shown.error):
            return False
        return bool(outcome.violations) == bool(self._shown.violations)


def _smallest(fails: _Failing, schedule: Schedule) -> Schedule:
    """Return a schedule that fails too, with as few faults as can be found, and as plain otherwise."""
    plain = Schedule(schedule.seed)
    singles = _single(schedule, plain, fails.play(plain).changes)
    single = next(filter(fails, itertools.islice(singles, TRIES_MAX)), None)
    if single is not None:
        return single
    schedule = _fewest(fails, schedule)
    for plainer in _plainer(schedule):
        candidate = dataclasses.replace(schedule, **plainer)
        if fails(candidate):
            schedule = candidate
    for place in range(len(schedule.faults)):
        for fault in _shorter(schedule.faults[place]):
            if fails(_with(schedule, place, fault)):
                schedule = _with(schedule, place, fault)
                break
    return schedule


def _single(schedule: Schedule, plain: Schedule, changes: int) -> Iterator[Schedule]:
    """Yield plain schedules with one fault, of a kind that this one has, at one of so many changes of the store."""
    kinds = {fault.kind: (*_shorter(fault), fault)[0].seconds for fault in schedule.faults}
    kinds |= {fault.kind: fault.seconds for fault in schedule.faults if fault.seconds < 0}
    for call in range(1, changes + 1):
        for kind, seconds in kinds.items():
            yield dataclasses.replace(plain, faults=(Fault(call, kind, seconds, is_of_changes=True),))


def _shorter(fault: Fault) -> Iterator[Fault]:
    """Yield the same fault with shorter spans, the shortest first."""
    for seconds in SPANS_S.get(fault.kind, ()):
        if 0 <= seconds < fault.seconds:
            yield dataclasses.replace(fault, seconds=seconds)


def _fewest(fails: _Failing, schedule: Schedule) -> Schedule:
    """Try the sets of its faults, smaller ones first; if there are too many, leave out one after the other."""
    subsets = (
        subset for size in range(len(schedule.faults)) for subset in itertools.combinations(schedule.faults, size)
    )
    for subset in itertools.islice(subsets, TRIES_MAX):
        candidate = dataclasses.replace(schedule, faults=subset)
        if fails(candidate):
            return candidate
    for fault in schedule.faults:
        candidate = schedule.without(fault)
        if fails(candidate):
            schedule = candidate
    return schedule


def _plainer(schedule: Schedule) -> Iterator[dict[str, Any]]:
    """Yield what else of a schedule can be as in any other run."""
    plain = Schedule(schedule.seed)
    for field in ("is_deaf", "is_cached", "latency_s_max"):
        if getattr(schedule, field) != getattr(plain, field):
            yield {field: getattr(plain, field)}
    for workers in range(1, schedule.workers):
        yield {"workers": workers}


def _with(schedule: Schedule, place: int, fault: Fault) -> Schedule:
    return dataclasses.replace(schedule, faults=(*schedule.faults[:place], fault, *schedule.faults[place + 1 :]))


# ---- telling it


def _report(outcome: Outcome, how: str, repeat: str | None) -> str:
    parts = [f"the scenario {how}."]
    if outcome.error is not None:
        parts.append(_raised(outcome.error))
    if outcome.violations:
        promises = "".join(f"\n  {violation}" for violation in outcome.violations)
        parts.append(f"Promises of the framework itself were broken; please report this:{promises}")
    if repeat is not None:
        parts.append(repeat)
    if outcome.struck:
        parts.append("faults:" + "".join(f"\n  {struck}" for struck in outcome.struck))
    if outcome.story:
        parts.append(f"what happened{_circumstances(outcome.schedule)}:" + "".join(_shortened(outcome.story)))
    return "\n\n".join(parts)


def _circumstances(schedule: Schedule) -> str:
    plain = Schedule(schedule.seed)
    words = [f"with {schedule.workers} workers"] * (schedule.workers > 1)
    words += ["with every notification lost"] * schedule.is_deaf
    words += ["with each turn replayed from the start"] * (not schedule.is_cached)
    words += [f"with a store that takes up to {schedule.latency_s_max:g} s"] * (
        schedule.latency_s_max > plain.latency_s_max
    )
    return f" ({', '.join(words)})" if words else ""


def _shortened(story: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a story; of a long one the beginning, all faults, and the end."""
    left_out = 0
    for number, line in enumerate(story):
        is_near = number < STORY_LINES_MAX // 2 or number >= len(story) - STORY_LINES_MAX // 2
        if not is_near and "FAULT" not in line:
            left_out += 1
            continue
        if left_out:
            yield f"\n  … {left_out} more"
            left_out = 0
        yield f"\n  {line}"


def _raised(error: BaseException) -> str:
    """Return an error with the lines of the user's code that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(error.__traceback__, frame)]
    lines = "".join(traceback.format_list(frames)).rstrip()
    last = "".join(traceback.format_exception_only(error)).rstrip()
    return f"{lines}\n{last}" if lines else last


def _is_ours(trace: TracebackType | None, frame: traceback.FrameSummary) -> bool:
    while trace is not None:
        code = trace.tb_frame.f_code
        if (code.co_filename, trace.tb_lineno) == (frame.filename, frame.lineno):
            module = str(trace.tb_frame.f_globals.get("__name__", ""))
            return module.partition(".")[0] in ("durable", "asyncio")
        trace = trace.tb_next
    return False
