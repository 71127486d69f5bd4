"""A simulated system: workers, a client and one store, in one thread and in simulated time, with the faults of a schedule.

Theory of operation. Each process has a provider object of its own on the shared store; its calls pass through this world's
gate, are counted, and meet the faults that the schedule has for their number. A killed worker starts again after a while,
as its supervisor would see to. When nothing has changed for QUIET_S, time leaps to the next thing that is to happen: a
month of waiting takes no longer than a minute.

Invariant: everything that is chosen follows from the schedule. Same schedule, same run.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from durable.activity_context import running_activity
from durable.app import DEFAULT_QUEUE, ActivityDefinition, App
from durable.client import Client
from durable.errors import LeaseLostError, StoreError, StoreUnavailableError
from durable.injection import Dependencies, Partial
from durable.invariants import Accepted, Answers
from durable.ports import Ports
from durable.provider import Provider, TaskAddress, Wakeup
from durable.stores import connect
from durable.testing.simulation.bounds import kept_in_memory, left_of
from durable.testing.simulation.checking import note_answers, note_purge, note_rows
from durable.testing.simulation.faults import Fault, FaultKind, Schedule, mixed
from durable.testing.simulation.loop import Process, SimulatedLoop, current_process
from durable.testing.simulation.machines import Machine, Role
from durable.testing.simulation.monitor import LEASE_S, Monitor
from durable.testing.simulation.neighbours import Neighbours
from durable.testing.simulation.overhearing import Overheard
from durable.testing.simulation.store import GatedProvider
from durable.testing.simulation.telling import of_commit, of_submit
from durable.testing.staging import Stage, StagedApp
from durable.worker import Worker
from durable.worker.activities import ActivityRunner
from durable.worker.claims import Claims

START_US = 1_767_225_600 * 1_000_000
"""When simulated time begins: 2026-01-01, 00:00 UTC."""

QUIET_S = 15.0
"""So long nothing must have changed before time leaps: longer than a lease and the look around after it."""

SETTLED_S = 1.5
"""So long after the last change it is seen whether anything comes after the end: longer than the poll bound."""

LOOK_AROUND_S = 3.0
"""So long nobody must find anything to do before the system is at rest: longer than each look around, and its answer."""

VAIN_LEAPS_MAX = 5
"""After so many leaps of which nothing came, because what stalls stalls again, nothing will."""

STOP_S_MAX = 60.0
"""A worker with nothing to do stops at once; this is longer than whatever a store call may take."""

CLOCK_WRONG_S = 60.0
ECHO_S = 0.4
CHANGES = frozenset({"commit", "submit", "report", "take", "lease", "release", "purge"})
CLIENT_STOPS_S_MAX = 12.0
"""A client that is held up for longer may rightly give up."""

CLIENT_REPEATS = frozenset({"submit", "lease"})
"""Calls that a client repeats by itself when the store does not answer; the others raise in the user's code."""


is_users_code: contextvars.ContextVar[bool] = contextvars.ContextVar("durable_is_users_code", default=False)
"""True in the user's own code, a scenario or a test: the times that it waits for are never leapt over."""


class World:
    """The system of one run. `apps`: the releases that a DEPLOY goes through, the first one first.

    `roles`: what the workers are for; there are at least as many as roles, and more take the roles in turn. None: each
    serves every queue of the apps, and for one that only a call names there is a further worker. `start_us`: the time at
    which it begins, in microseconds since 1970 UTC. `quiet_s`: how long nothing must have changed before time leaps.
    """

    def __init__(
        self,
        schedule: Schedule,
        url: str,
        apps: Sequence[App],
        *,
        roles: Sequence[Role] | None = None,
        stage: Stage | None = None,
        dependencies: Dependencies | None = None,
        is_traced: bool = False,
        start_us: int = START_US,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._start_us = start_us
        self._quiet_s = quiet_s
        self.loop = SimulatedLoop()  # type: ignore[abstract]  # what it lacks, it has no use for
        self.loop.before_time_moves = self._leap
        self.schedule = schedule
        self.monitor = Monitor()
        self.answers = Answers()
        self.accepted = Accepted()
        self.calls = 0
        self.struck: list[str] = []
        self.kills = 0
        self.changes = 0  # calls that may change the store
        self.trace: list[str] | None = [] if is_traced else None
        self.story: list[str] = []  # told when there is a trace
        self._is_over = False  # nobody starts again
        self.is_at_rest = False  # nothing will ever happen again by itself
        self.machines: dict[Process, Machine] = {}
        self._neighbours = Neighbours(lambda: self.machines.values(), self.answers, self.accepted, self.tell)
        self._all: list[Process] = []
        self._workers: list[Worker] = []
        self._url = url
        self._serves_all = roles is None
        self._queues = sorted({DEFAULT_QUEUE, *(queue for app in apps for queue in _queues_of(app))})
        self._roles = roles or (Role(tuple(self._queues)),)
        self._stage = stage
        self._dependencies = Partial(dependencies or {})
        self._apps = [StagedApp(app, self._run_activity) for app in apps]
        self._random = random.Random(f"ids of {schedule.seed}")
        self._faults: dict[tuple[int, bool], list[Fault]] = {}
        for fault in schedule.faults:
            self._faults.setdefault((fault.call, fault.is_of_changes), []).append(fault)
        self._pending = 0  # faults that are not over yet
        self._changed_at = 0.0
        self._idle_since: float | None = None
        self._vain_leaps = 0
        self._progress_before = 0
        self._clock_error_us = 0
        self._correction_us = 0  # of the hub's clock
        self._deaf_until = -1.0
        self._echo_until = -1.0
        self.root = self._process("world")
        self.ports = Ports(self.now_us, self.loop.time, self._new_id, _run_inline, may_start_threads=False)
        self._anchor = connect(url, self.ports)  # a memory store lives while somebody has it open

    # ---- ports

    def now_us(self) -> int:
        """The wall clock of all machines, and of the store."""
        return self._start_us + round(self.loop.time() * 1e6) + self._clock_error_us

    @property
    def _hub_now_us(self) -> int:
        """The hub's time, as far as somebody has been told."""
        return self.now_us() + self._correction_us

    def _new_id(self) -> str:
        return f"{self.now_us() // 1000 & 0xFFFFFFFFFFFF:012x}{self._random.getrandbits(80):020x}"

    # ---- machines

    async def begin(self) -> None:
        """Create the store and start the workers."""
        await self._anchor.open()
        for number in range(max(self.schedule.workers, len(self._roles))):
            self.start_worker(f"worker-{number + 1}", 0, self._roles[number % len(self._roles)])

    def _process(self, name: str) -> Process:
        process = Process(name)
        if hasattr(self, "_all"):
            self._all.append(process)
        return process

    def start_worker(self, name: str, release: int, role: Role) -> None:
        """Start a worker process; if it cannot start it is started again. Nothing, once all is over."""
        if self._is_over:
            return
        process = self._process(name)
        machine = Machine(process, name, connect(self._url, self.ports), release, role)
        self.machines[process] = machine
        _ = self.loop.spawn(process, self._serve(machine))

    async def _serve(self, machine: Machine) -> None:
        machine.stop = asyncio.Event()
        worker = Worker(
            self._apps[min(machine.release, len(self._apps) - 1)],
            self._gated(machine),
            name=machine.name,
            queues=machine.role.queues,
            orchestrations=machine.role.orchestrations,
            activities=machine.role.activities,
            max_activities=machine.role.max_activities,
            max_cached_orchestrations=self._cache_max(),
            shutdown_timeout=5,
            dependencies=self._dependencies,
            ports=self.ports,
        )
        self._workers.append(worker)
        machine.worker = worker
        try:
            await worker.serve(machine.stop)
        except StoreError as error:
            self.note(f"{machine.name} cannot go on: {error}")
        self.machines.pop(machine.process, None)
        again = (machine.name, machine.release, machine.role)
        self.loop.call_later(machine.again_s, self.start_worker, *again, context=self.root.context.copy())

    def _serve_queues(self) -> None:
        """Start a worker for queues that only calls name: what is declared, every worker serves from the start."""
        new = [queue for queue in self.monitor.queues if queue not in self._queues] if self._serves_all else []
        if new:
            self._queues += new
            self.start_worker(f"worker-of-{new[0]}", 0, Role(tuple(new), orchestrations=False))

    @property
    def queues(self) -> set[str]:
        """All queues in which activities may lie."""
        return {*self._queues, *self.monitor.queues}

    def _cache_max(self) -> int:
        """Return how many instances a worker keeps in memory: all, or so few that they push each other out, or none."""
        if not self.schedule.is_cached:
            return 0
        return 2 if self.schedule.seed % 4 == 3 else 10_000

    def client(self, name: str = "client") -> tuple[Process, Client]:
        """Return a client, not yet opened, and its process; in half of the schedules it counts as a part of a worker's."""
        process = self._process(name)
        machine = Machine(process, name, connect(self._url, self.ports), 0, Role(), is_worker=False)
        self.machines[process] = machine
        client = Client(self._gated(machine), self._apps[0], ports=self.ports)
        if mixed(self.schedule.seed, 0) >> 40 & 1:
            client.direct = self._neighbours
        return process, client

    def _gated(self, machine: Machine) -> Provider:
        return cast("Provider", GatedProvider(machine.inner, machine.process, self))

    def kill(self, machine: Machine) -> None:
        """`kill -9`: its code stops; its connections and locks are the operating system's to close."""
        machine.process.kill()
        self.kills += machine.is_worker
        self._neighbours.lose(machine)
        self.machines.pop(machine.process, None)
        _ = self.loop.spawn(self.root, machine.inner.close())

    async def stop_all(self) -> list[str]:
        """Stop all processes in order; say what they kept in memory though everything had ended, and what is left of them."""
        self._is_over = True
        running = list(self.machines.values())
        found: list[str] = []
        if any(self._kept_by(machine) for machine in running):
            await asyncio.sleep(2 * LOOK_AROUND_S)  # one may not have heard yet that its lease is lost
        for machine in running:
            found += self._kept_by(machine)
            if machine.stop is not None:
                machine.stop.set()
        until = self.loop.time() + STOP_S_MAX
        while any(machine.stop is not None for machine in self.machines.values()) and self.loop.time() < until:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2 * ECHO_S)
        return found + [text for machine in running for text in left_of(machine.process, self.loop)]

    def _kept_by(self, machine: Machine) -> list[str]:
        if machine.worker is None:
            return []
        return [*kept_in_memory(machine.worker, machine.process, self.loop, endless=len(self.monitor.endless))]

    async def end(self) -> None:
        """Kill what still runs, and open the store for whoever wants to look at what is left."""
        self._is_over = True
        for machine in list(self.machines.values()):
            self.kill(machine)
        await asyncio.sleep(0)

    async def outlast_leases(self) -> None:
        """Wait until the leases of the dead have run out: what they had claimed is free then."""
        await asyncio.sleep(LEASE_S + 1)

    async def close(self) -> None:
        """Let go of the store."""
        await self._anchor.close()

    def bury(self) -> None:
        """Close all coroutines that never came to their end; after that the loop is closed."""
        with self.loop.running():
            for process in self._all:
                process.kill()
            for worker in self._workers:
                worker.abandon()
            for process in self._all:
                self.loop.bury(process)
            self.loop.close()

    @property
    def app(self) -> App:
        """The first release."""
        return self._apps[0]

    @property
    def provider(self) -> Provider:
        """The store, without faults."""
        return self._anchor

    # ---- activities

    def _run_activity(self, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> Any:
        attempt: Any = running_activity.get()
        address: TaskAddress = attempt.address
        machine = self.machines.get(cast("Process", current_process.get()))
        owner = machine.lease if machine is not None and not attempt.is_claimed else None
        if machine is not None and machine.went_on_at == self.loop.time():
            owner = None  # it was stopped between its last look at the lease and this: no program can help that
        self.monitor.began(address, definition.name, attempt.partition, owner)
        self.tell([f"runs activity '{definition.name}' of '{address.key.id}', task {address.task_id}"])
        self.note(f"activity {definition.name} of {address.key.id}, task {address.task_id}")
        return self._stage(definition, arguments) if self._stage else definition.function(*arguments)

    # ---- the gate

    async def pass_through(
        self, process: Process, name: str, call: Callable[[], Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> Any:
        """Make a storage call for a process, with the faults that the schedule has for it."""
        self.calls += 1
        number, faults = self.calls, self._faults.pop((self.calls, False), [])
        if name in CHANGES:
            self.changes += 1
            faults += self._faults.pop((self.changes, True), [])
        bits = mixed(self.schedule.seed, number)
        latency = self.schedule.latency_s_max * (bits & 0xFFFF) / 0xFFFF
        is_late = bool(bits & 0x10000)  # the answer takes its time, not the question
        await asyncio.sleep(0 if is_late else latency)
        if faults:
            answer = await self._struck(process, name, call, arguments, number, faults)
        else:
            answer = await self._made(process, name, call, arguments, number)
        if is_late:
            await asyncio.sleep(latency)
        machine = self.machines.get(process)
        if machine is not None and not machine.is_worker:
            self._told(name, arguments, answer)
        return answer

    def _told(self, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        """A client has its answer: from now on it must hold."""
        if name == "submit":
            note_answers(self.answers, arguments[2], answer)
        elif name == "load":
            note_rows(self.answers, answer)
        elif name == "purge":
            note_purge(self.answers, arguments[0], answer)

    async def _made(
        self, process: Process, name: str, call: Callable[[], Awaitable[Any]], arguments: tuple[Any, ...], number: int
    ) -> Any:
        machine = self.machines.get(process)
        if machine is not None and machine.went_on_at == self.loop.time():
            await asyncio.sleep(0)  # what it was told while it was stopped comes before whatever it asks now
        heard = functools.partial(self._heard, process, name, arguments, number)
        try:
            return await Overheard(call(), process, heard, self.root.context)
        except Exception as error:
            self.note(f"{number} {process.name} {name}: {type(error).__name__}")
            raise

    def _heard(self, process: Process, name: str, arguments: tuple[Any, ...], number: int, answer: Any) -> None:
        """The store has done what a call asked for, whether or not its answer will arrive."""
        if name in CHANGES or (name == "claim" and answer):
            self._changed_at = self.loop.time()
        if self.trace is not None:
            self.note(f"{number} {process.name} {name}: {_digest(answer)}")
        self._take_note(process, name, arguments, answer)

    def _take_note(self, process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        """Keep account of what the store has done."""
        now = self.loop.time()
        if name == "commit":
            self.monitor.committed(arguments[0], arguments[1], answer)
            self.accepted.note(arguments[1].messages, answer.deliveries)
            if self.trace is not None:
                self.tell(of_commit(arguments[1], answer))
            self._serve_queues()
        elif name == "submit":
            self.monitor.submitted(arguments[0], arguments[1], arguments[2], answer)
            self.accepted.note(arguments[2], answer)
            if self.trace is not None:
                self.tell(of_submit(arguments[2]))
        elif name == "lease" and arguments[-1] is True and process in self.machines:  # a worker's, not its client's
            self.machines[process].lease = answer
        elif name == "renew":
            self._correction_us = answer.clock.correction
            self.monitor.renewed(arguments[0], now)
        elif name == "take":
            self.monitor.took(arguments[0], answer, now)
        elif name == "purge":
            self.monitor.purged({key for key, _ in arguments[0]})
        elif name == "release":
            self.monitor.gave_up(arguments[0], arguments[1] if len(arguments) > 1 else None)

    async def _struck(
        self,
        process: Process,
        name: str,
        call: Callable[[], Awaitable[Any]],
        arguments: tuple[Any, ...],
        number: int,
        faults: list[Fault],
    ) -> Any:
        machine = self.machines[process]
        faults = [fault for fault in faults if _can_strike(machine, name, fault)]
        kinds = {fault.kind: fault.seconds for fault in faults}
        for fault in faults:
            self.struck.append(f"at {self.loop.time():.3f} s {fault.describe(f' ({name} of {machine.name})')}")
            self.tell([f"FAULT: {fault.describe(f' ({name})')}"])
            self.note(f"{number} {fault.kind.name}")
        self._changed_at = self.loop.time()
        self._change_the_air(kinds)
        if FaultKind.CRASH_BEFORE in kinds:
            await self._crash(machine, kinds[FaultKind.CRASH_BEFORE])
        if FaultKind.STOP_BEFORE in kinds:
            await self._stop(machine, kinds[FaultKind.STOP_BEFORE])
        if FaultKind.SLOW in kinds:
            self._later(kinds[FaultKind.SLOW], lambda: None)
            await asyncio.sleep(kinds[FaultKind.SLOW])
        if FaultKind.FAILS_BEFORE in kinds:
            raise StoreUnavailableError("simulated: the store cannot be reached")
        answer = await self._made(process, name, call, arguments, number)
        if FaultKind.TWICE in kinds:
            answer = await self._made(process, name, call, arguments, number)
        if FaultKind.DEPLOY in kinds:
            self._deploy(machine, kinds[FaultKind.DEPLOY])
        if FaultKind.CRASH_AFTER in kinds:
            await self._crash(machine, kinds[FaultKind.CRASH_AFTER])
        if FaultKind.STOP_AFTER in kinds:
            await self._stop(machine, kinds[FaultKind.STOP_AFTER])
        if FaultKind.ANSWER_LOST in kinds:
            raise StoreUnavailableError("simulated: the connection broke before the answer came")
        return answer

    # ---- faults

    def _change_the_air(self, kinds: dict[FaultKind, float]) -> None:
        """Faults that are not about the call that they strike at."""
        now = self.loop.time()
        if FaultKind.DEAF in kinds:
            self._deaf_until = now + kinds[FaultKind.DEAF]
        if FaultKind.ECHO in kinds:
            self._echo_until = now + kinds[FaultKind.ECHO]
        if FaultKind.CLOCK_JUMP in kinds:
            error_us = round(kinds[FaultKind.CLOCK_JUMP] * 1e6)
            self._clock_error_us += error_us
            self.monitor.clock_moved(now)
            self._later(CLOCK_WRONG_S, lambda: self._correct_clock(error_us))

    def _correct_clock(self, error_us: int) -> None:
        self._clock_error_us -= error_us
        self.monitor.clock_moved(self.loop.time())

    async def _crash(self, machine: Machine, seconds: float) -> None:
        self.kill(machine)
        self._later(seconds, lambda: self.start_worker(machine.name, machine.release, machine.role))
        await self.loop.create_future()  # nothing of this process is ever run again, so this is where it ends

    async def _stop(self, machine: Machine, seconds: float) -> None:
        machine.process.is_stopped = True
        self._neighbours.lose(machine)
        self._later(seconds, lambda: self._go_on(machine))
        await asyncio.sleep(0)  # until then

    def _go_on(self, machine: Machine) -> None:
        machine.went_on_at = self.loop.time()
        self.loop.go_on(machine.process)

    def _deploy(self, machine: Machine, seconds: float) -> None:
        machine.release += 1
        machine.again_s = seconds
        if machine.stop is not None:
            machine.stop.set()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in the world's own name, and do not let time leap before."""
        self._pending += 1

        def act() -> None:
            self._pending -= 1
            self._changed_at = self.loop.time()
            action()

        self.loop.call_later(seconds, act, context=self.root.context.copy())

    def notify(self, process: Process, callback: Callable[[Wakeup], None], wakeup: Wakeup) -> None:
        """Bring a notification to a process, unless nobody hears any; or twice, the second time late."""
        now = self.loop.time()
        if self.schedule.is_deaf or now < self._deaf_until:
            return
        if now < self._echo_until:
            self.loop.call_later(ECHO_S, callback, wakeup, context=process.context.copy())
        callback(wakeup)

    # ---- time

    @property
    def is_settled(self) -> bool:
        """True when no fault lasts, every instance has ended and every message was consumed: nothing more is to be expected."""
        if self._pending or not self.monitor.is_settled or not self.monitor.is_all_consumed(self._hub_now_us):
            return False
        return self.loop.time() - self._changed_at > SETTLED_S

    def _leap(self, to: float) -> float:
        """Decide where the clock moves instead of `to`, the next timer."""
        now = self.loop.time()
        if self._pending or now - self._changed_at < self._quiet_s:
            self.stir()
            return to
        target = self._next_happening()
        if target is None:
            self._idle_since = now if self._idle_since is None else self._idle_since
            self.is_at_rest = now - self._idle_since >= LOOK_AROUND_S
            return to
        self.stir()
        if target <= to:
            return to
        self._vain_leaps = self._vain_leaps + 1 if self._progress_before == self.monitor.progress else 0
        self._progress_before = self.monitor.progress
        held = [machine for machine in self.machines.values() if not machine.process.is_dead]
        for machine in held:
            machine.process.is_stopped = True
        _ = self.loop.spawn(self.root, self._wake_up(held))
        self._changed_at = target
        self.note(f"time leaps to {target:.3f}")
        return target

    async def _wake_up(self, held: list[Machine]) -> None:
        """Nobody's lease ran out in a leap: in slow motion all of them would have been renewed."""
        for machine in held:
            if machine.lease is not None:
                try:
                    await machine.inner.renew(machine.lease)
                except (StoreError, LeaseLostError) as error:
                    self.note(f"{machine.name} had lost its lease: {error}")
        for machine in held:
            self.loop.go_on(machine.process)

    def _next_happening(self) -> float | None:
        """Return when the next thing happens that is not somebody's regular look around."""
        awaited = self.loop.next_timer(where=_is_awaited)
        due_us = self.monitor.next_due(self._hub_now_us)
        times = [awaited, self.loop.next_far_timer()]
        if self._vain_leaps >= VAIN_LEAPS_MAX and awaited is None:
            due_us, times = self.monitor.next_due(self._hub_now_us, is_hopeful=False), []
        if due_us is not None:
            times.append(self.loop.time() + (due_us - self._hub_now_us) / 1e6)
        return min((at for at in times if at is not None), default=None)

    def stir(self) -> None:
        """Take it that something may happen yet."""
        self._idle_since, self.is_at_rest = None, False

    # ---- the trace

    def tell(self, sentences: Iterable[str]) -> None:
        """Add to the story, if there is a trace, what the process that runs just now has done."""
        if self.trace is not None:
            process = current_process.get()
            who = "somebody" if process is None else process.name
            self.story += [f"{self.loop.time():10.3f} s  {who} {sentence}" for sentence in sentences]

    def note(self, text: str) -> None:
        """Write a line into the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():.6f} {text}")


def _queues_of(app: App) -> list[str]:
    return [definition.options.queue for definition in app.activities]


def _is_awaited(callback: Callable[..., object], context: contextvars.Context) -> bool:
    """Tell whether a timer is one that somebody waits for: the user's code, an activity, or the end of an attempt."""
    if context.get(is_users_code) or context.get(running_activity, None) is not None:
        return True
    return isinstance(getattr(callback, "__self__", None), ActivityRunner | Claims)


def _can_strike(machine: Machine, name: str, fault: Fault) -> bool:
    """A worker must survive everything; a client is the user's code, which hears of what it does not repeat by itself."""
    if machine.is_worker:
        return True
    kind = fault.kind
    if kind in (FaultKind.CRASH_BEFORE, FaultKind.CRASH_AFTER, FaultKind.DEPLOY) or fault.seconds > CLIENT_STOPS_S_MAX:
        return False
    if kind in (FaultKind.FAILS_BEFORE, FaultKind.ANSWER_LOST):
        return name in CLIENT_REPEATS
    return kind is not FaultKind.TWICE or name != "purge"


async def _run_inline(function: Callable[[], Any]) -> Any:
    return function()


def _digest(answer: object) -> str:
    return f"{answer!r:.2000}"
