"""Goal: whatever a client does in whatever order, it is told what `model.py` says. Method: Hypothesis makes up the order.

A store in memory, a client that stays, and a worker that comes and goes, with and without its cache. While the worker is up
each call is followed until its effect is seen, so that there is one right answer to the next; while there is none, what is sent
waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durable import (
    Client,
    Handle,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    ReusePolicy,
    Worker,
)
from tests.client.model import (
    AGAIN,
    CANCELLED,
    COMPLETED,
    END,
    FAIL,
    FAILED,
    PENDING,
    PLAIN,
    STUBBORN,
    TERMINATED,
    Run,
    app,
)

EXAMPLES = int(os.environ.get("DURABLE_STATEFUL_EXAMPLES", "0"))
"""The long form: so many examples, and a failing one is shrunk, which takes minutes."""

EXAMPLES_OF_THE_SHORT_FORM = 30

SEED = int(os.environ.get("DURABLE_STATEFUL_SEED", "1"))
STEPS = 40
PATIENCE_S = 20.0

SHRINKING_PATIENCE_S = 1.0
"""Once something has failed, the same is tried a hundred times over in smaller forms."""

IDS = ("a", "a%")
EVENTS = st.sampled_from((1, 2, 3, AGAIN, END, FAIL))
STEERING = st.sampled_from(("resume", "suspend", "resume", "cancel", "resume", "suspend", "resume", "terminate"))
SENDING = st.tuples(st.just("event"), EVENTS) | st.tuples(STEERING, st.none())
FILTERS: tuple[dict[str, Any], ...] = (
    {"prefix": ""},
    {"prefix": "a"},
    {"prefix": "a%"},
    {"status": COMPLETED},
    {"status": [FAILED, CANCELLED, TERMINATED]},
    {"name": STUBBORN, "prefix": "a"},
    {"tags": {"program": PLAIN}},
)
numbers = itertools.count()


class Life:
    """An id with its runs: the current one is the last; a run that waits to replace it is `successor`."""

    def __init__(self) -> None:
        self.runs: list[tuple[Run, Handle[Any]]] = []
        self.successor: tuple[Run, Handle[Any]] | None = None

    @property
    def current(self) -> Run | None:
        return self.runs[-1][0] if self.runs else None


class ClientMachine(RuleBasedStateMachine):
    """Calls of a client, and what the model says to each."""

    cache = 10_000
    patience_s = PATIENCE_S

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.url = f"memory://stateful{next(numbers)}?until=closed"
        self.client: Client = self.do(Client(self.url, app).__aenter__())
        self.worker: Worker | None = None
        self.lives = {instance_id: Life() for instance_id in IDS}

    def do(self, awaitable: Any) -> Any:
        return self.runner.run(asyncio.wait_for(awaitable, 2 * PATIENCE_S))

    def teardown(self) -> None:
        with contextlib.closing(self.runner):
            if self.worker is not None:
                self.do(self.worker.__aexit__(None, None, None))
            self.do(self.client.close())

    @initialize(programs=st.tuples(*[st.sampled_from((PLAIN, STUBBORN))] * len(IDS)), has_worker=st.booleans())
    def there_is_something_to_begin_with(self, programs: tuple[str, ...], has_worker: bool) -> None:
        """Else most orders of calls would be about nothing: Hypothesis leaves some rules out of each."""
        if has_worker:
            self.the_worker_comes_or_goes()
        for instance_id, program in zip(IDS, programs, strict=True):
            self.start(instance_id, program, ReusePolicy.REJECT, [], True)

    # ---- the worker

    @rule()
    def the_worker_comes_or_goes(self) -> None:
        if self.worker is None:
            self.worker = self.do(Worker(app, self.url, max_cached_orchestrations=self.cache).__aenter__())
            self.settle()
        else:
            self.do(self.worker.__aexit__(None, None, None))
            self.worker = None

    def settle(self) -> None:
        """With a worker, let the model take what waits, and wait until the store shows the same."""
        if self.worker is None:
            return
        for life in self.lives.values():
            if life.current is not None:
                if life.successor is not None and ("terminate", None) not in life.current.sent:
                    life.current.sent.append(("terminate", None))  # that is how a replacement ends it
                life.current.take_everything()
            if life.successor is not None:
                life.runs.append(life.successor)
                life.successor = None
                life.runs[-1][0].take_everything()
        for life in self.lives.values():
            for run, handle in life.runs:
                self.check_shown(handle, run, self.patience_s)

    def check_shown(self, handle: Handle[Any], run: Run, within_s: float) -> None:
        try:
            self.do(shows(handle, run, within_s))
        except AssertionError:
            type(self).patience_s = SHRINKING_PATIENCE_S
            raise

    # ---- starting

    @rule(
        instance_id=st.sampled_from(IDS),
        program=st.sampled_from((PLAIN, STUBBORN)),
        policy=st.sampled_from(ReusePolicy),
        events=st.lists(EVENTS, max_size=2),
        is_due=st.sampled_from((True, True, True, False)),
    )
    def start(self, instance_id: str, program: str, policy: ReusePolicy, events: list[Any], is_due: bool) -> None:
        life = self.lives[instance_id]
        current = life.current
        if life.successor is not None:
            return
        run = Run(program, next(numbers), is_due, list(events))
        starting = self.client.start(
            program,
            run.input,
            instance_id=instance_id,
            reuse_policy=policy,
            events=[("go", event) for event in events],
            at=None if is_due else timedelta(hours=1),
            tags={"program": program},
        )
        is_running = current is not None and not current.is_finished
        if current is None:
            outcome = "begin"
        elif policy is ReusePolicy.TERMINATE_AND_REPLACE:
            outcome = "replace" if is_running else "begin"
        elif policy is ReusePolicy.USE_EXISTING or (policy is ReusePolicy.USE_RUNNING and is_running):
            outcome = "use" if is_running or not events else "finished"
        elif policy is ReusePolicy.REJECT or is_running:
            outcome = "exists"
        else:
            outcome = "begin"
        if outcome == "exists":
            with pytest.raises(InstanceAlreadyExistsError) as raised:
                self.do(starting)
            assert current is not None
            assert raised.value.state is not None
            assert raised.value.state.status is current.status
            return
        if outcome == "finished":
            with pytest.raises(InstanceFinishedError):
                self.do(starting)
            return
        handle = self.do(starting)
        assert handle.instance_id == instance_id
        if outcome == "use":
            assert current is not None
            assert handle.run_id == life.runs[-1][1].run_id
            current.sent += [("event", event) for event in events]
        else:
            assert handle.run_id not in [other.run_id for _, other in life.runs]
            if outcome == "replace":
                life.successor = (run, handle)
            else:
                life.runs.append((run, handle))
        self.settle()

    # ---- sending

    @rule(instance_id=st.sampled_from(IDS), sendings=st.lists(SENDING, min_size=2, max_size=6), is_bound=st.booleans())
    def send_several(self, instance_id: str, sendings: list[tuple[str, Any]], is_bound: bool) -> None:
        for kind, data in sendings:
            self.send_one(instance_id, kind, data, is_bound)

    @rule(instance_id=st.sampled_from(IDS), events=st.lists(EVENTS, min_size=1, max_size=3), is_bound=st.booleans())
    def raise_events(self, instance_id: str, events: list[Any], is_bound: bool) -> None:
        for event in events:
            self.send_one(instance_id, "event", event, is_bound)

    @rule(instance_id=st.sampled_from(IDS), kinds=st.lists(STEERING, min_size=1, max_size=3), is_bound=st.booleans())
    def steer(self, instance_id: str, kinds: list[str], is_bound: bool) -> None:
        for kind in kinds:
            self.send_one(instance_id, kind, None, is_bound)

    def send_one(self, instance_id: str, kind: str, data: Any, is_bound: bool) -> None:
        life = self.lives[instance_id]
        if life.successor is not None:
            return
        handle = life.runs[-1][1] if is_bound and life.runs else self.client.get(instance_id)
        sending = handle.raise_event("go", data) if kind == "event" else getattr(handle, kind)()
        if life.current is None:
            with pytest.raises(InstanceNotFoundError):
                self.do(sending)
        elif life.current.is_finished:
            with pytest.raises(InstanceFinishedError):
                self.do(sending)
        else:
            self.do(sending)
            life.current.sent.append((kind, data))
            self.settle()

    @precondition(lambda self: any(len(life.runs) > 1 for life in self.lives.values()))
    @rule(event=EVENTS, data=st.data())
    def send_to_a_run_that_was_replaced(self, event: Any, data: st.DataObject) -> None:
        replaced = [handle for life in self.lives.values() for _, handle in life.runs[:-1]]
        handle = data.draw(st.sampled_from(replaced))
        for sending in (handle.raise_event("go", event), handle.cancel(), handle.terminate(), handle.suspend()):
            with pytest.raises(InstanceFinishedError):
                self.do(sending)

    # ---- the end

    @rule(filters=st.sampled_from(FILTERS))
    def look(self, filters: dict[str, Any]) -> None:
        for instance_id in IDS:
            self.look_at(instance_id)
        self.look_for(filters)

    def look_at(self, instance_id: str) -> None:
        run = self.lives[instance_id].current
        handle = self.client.get(instance_id)
        if run is None:
            with pytest.raises(InstanceNotFoundError):
                self.do(handle.result(timeout=0))
        elif run.status is COMPLETED:
            assert self.do(handle.result()) == run.output
            assert self.do(handle.wait()).output == run.output
        elif run.is_finished:
            kinds = {
                FAILED: OrchestrationFailedError,
                CANCELLED: OrchestrationCancelledError,
                TERMINATED: OrchestrationTerminatedError,
            }
            with pytest.raises(kinds[run.status]):
                self.do(handle.result())
            assert self.do(handle.wait()).status is run.status
        else:
            with pytest.raises(TimeoutError, match=run.status.name):
                self.do(handle.wait(timeout=0))

    @rule(instance_id=st.sampled_from(IDS), is_bound=st.booleans())
    def purge(self, instance_id: str, is_bound: bool) -> None:
        life = self.lives[instance_id]
        handle = life.runs[-1][1] if is_bound and life.runs else self.client.get(instance_id)
        if life.current is None:
            with pytest.raises(InstanceNotFoundError):
                self.do(handle.purge())
        elif not life.current.is_finished:
            with pytest.raises(InstanceRunningError):
                self.do(handle.purge())
        else:
            assert self.do(handle.purge()) == 1
            self.forget(life)

    @rule(filters=st.sampled_from(FILTERS))
    def purge_those_that_match(self, filters: dict[str, Any]) -> None:
        matching = [i for i in self.matching(filters) if (run := self.lives[i].current) is not None and run.is_finished]
        if filters == {"prefix": ""}:  # an empty filter would purge everything
            with pytest.raises(ValueError, match="needs a filter"):
                self.do(self.client.purge(**filters))
            return
        assert self.do(self.client.purge(**filters)) == len(matching)
        for instance_id in matching:
            self.forget(self.lives[instance_id])

    def forget(self, life: Life) -> None:
        """With the current run go all earlier ones."""
        for _, handle in life.runs:
            with pytest.raises(InstanceNotFoundError):
                self.do(handle.state())
        life.runs.clear()

    # ---- looking

    def matching(self, filters: dict[str, Any]) -> list[str]:
        found = []
        for instance_id, life in self.lives.items():
            run = life.current
            if run is None:
                continue
            statuses = filters.get("status", run.status)
            if (
                instance_id.startswith(filters.get("prefix", ""))
                and run.status in (statuses if isinstance(statuses, list) else [statuses])
                and run.program == filters.get("name", run.program)
                and run.program == filters.get("tags", {}).get("program", run.program)
            ):
                found.append(instance_id)
        return found

    def look_for(self, filters: dict[str, Any]) -> None:
        matching = self.matching(filters)
        assert self.do(self.client.count(**filters)) == len(matching)
        found = self.do(listed(self.client, filters))
        assert sorted(state.instance_id for state in found) == sorted(matching)
        finished = [i for i in matching if (run := self.lives[i].current) is not None and run.is_finished]
        assert self.do(self.client.wait(timeout=0, **filters)) == len(finished)

    @invariant()
    def every_handle_shows_its_own_run(self) -> None:
        for life in self.lives.values():
            for run, handle in life.runs:
                self.check_shown(handle, run, 0)
            if life.successor is not None:
                assert self.do(life.successor[1].state()).status is PENDING

    @precondition(lambda self: self.worker is not None)
    @invariant()
    def what_was_not_consumed_is_listed(self) -> None:
        for life in self.lives.values():
            for run, handle in life.runs:
                kinds = Counter(item.kind for item in self.do(handle.dropped()))
                expected = Counter(KINDS[kind] for kind in run.dropped)
                if run.is_finished:
                    expected += Counter(KINDS["event"] for _ in run.brought)
                assert kinds == expected, (kinds, run)


KINDS = {
    "event": "EventRaised",
    "cancel": "OrchestrationCancelRequested",
    "suspend": "OrchestrationSuspended",
    "resume": "OrchestrationResumed",
    "terminate": "OrchestrationTerminated",
}


async def listed(client: Client, filters: dict[str, Any]) -> list[Any]:
    return [state async for state in client.query(**filters)]


async def shows(handle: Handle[Any], run: Run, within_s: float) -> None:
    """Wait until a handle shows a run as the model has it."""
    expected = (run.status, run.custom_status, run.output, run.generation, run.program, run.input)
    until = asyncio.get_running_loop().time() + within_s
    while True:
        state = await handle.state()
        shown = (state.status, state.custom_status, state.output, state.generation, state.name, state.input)
        if shown == expected:
            return
        assert asyncio.get_running_loop().time() < until, f"{handle}: {shown} is shown, the model says {expected}"
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("cache", [10_000, 0], ids=["cached", "uncached"])
def test_a_client_is_told_what_the_model_says(cache: int) -> None:
    class Machine(ClientMachine):
        pass

    Machine.cache = cache
    chosen = settings(
        max_examples=EXAMPLES or EXAMPLES_OF_THE_SHORT_FORM,
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(SEED + cache)(Machine), settings=chosen)
