"""Code is deployed while instances are in flight, under faults.

Goal: an instance keeps the version that it was begun in, code that no longer fits its history stalls it and changes nothing,
and the next release that fits goes on. Method: workers that stop in order and come again with the next app, at each of many
storage calls, with other faults around.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from durable import ActivityScheduled, App, Client, Orchestration, OrchestrationContext, OrchestrationStatus
from durable.testing.simulation.faults import Fault, FaultKind, Schedule, draw_schedule
from durable.testing.simulation.running import run_schedule


def release(*versions: str, is_broken: bool = False) -> App:
    """An app with these versions of `price`; each asks as often as its number says."""
    app = App()

    @app.activity
    def add(amount: int) -> int:
        return amount + 1

    @app.activity
    def other(amount: int) -> int:
        return amount

    for version in versions:
        _register(app, version, 2 + int(version), add, other if is_broken else None)
    return app


def _register(
    app: App, version: str, rounds: int, add: Callable[[int], int], first: Callable[[int], int] | None
) -> None:
    @app.orchestrator(name="price", version=version)
    def price(ctx: OrchestrationContext, amount: int) -> Orchestration[int]:
        if first is not None:
            yield ctx.call_activity(first, amount)
        for _ in range(rounds):
            amount = yield from ctx.call_activity(add, amount)
        return amount


def _deployed_at(call: int, seed: int) -> Schedule:
    """From this call on one worker after the other gets the next release, until all have the last one."""
    drawn = draw_schedule(seed, 60, faults_max=3)
    deploys = tuple(Fault(call + later, FaultKind.DEPLOY, 0.5) for later in range(0, 120, 7))
    return Schedule(seed, workers=drawn.workers, faults=(*drawn.faults, *deploys), is_cached=drawn.is_cached)


@pytest.mark.parametrize("call", range(4, 40, 4))
def test_an_instance_keeps_the_version_that_it_began_in(call: int) -> None:
    async def scenario(client: Client) -> None:
        handle = await client.start("price", 0)
        result, version = await handle.result(), (await handle.state()).version
        assert result == 2 + int(version or 0)

    for seed in range(call * 10, call * 10 + 4):
        outcome = run_schedule(
            [release("1"), release("1", "2"), release("1", "2", "3")], scenario, _deployed_at(call, seed)
        )
        assert outcome.is_good, (outcome.schedule, outcome.violations, outcome.error)


@pytest.mark.parametrize("call", range(4, 40, 4))
def test_code_that_does_not_fit_stalls_until_some_does(call: int) -> None:
    async def scenario(client: Client) -> None:
        handle = await client.start("price", 0)
        try:
            assert await handle.result(timeout=3600) == 3
        except TimeoutError:
            assert (await handle.state()).status is OrchestrationStatus.STALLED
            names = [event.name for event in await handle.history() if isinstance(event, ActivityScheduled)]
            assert "other" in names, "only what the second release has begun must wait for it to come back"

    for seed in range(call * 10, call * 10 + 4):
        releases = [release("1"), release("1", is_broken=True), release("1")]
        # What was begun by the second release does not replay with the third, and need not.
        outcome = run_schedule(releases, scenario, _deployed_at(call, seed), is_replayed=False)
        assert outcome.is_good, (outcome.schedule, outcome.violations, outcome.error)
