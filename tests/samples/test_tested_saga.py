"""How a saga is tested: in simulated time, with failures to order, against a golden history, and under crashes.

Goal: the missing compensation of `hasty_trip`, which only a crash shows, is found, and the sample does not have it. Method:
one scenario, which asserts that a trip is booked as a whole or not at all, for both.
"""

from __future__ import annotations

import pytest

from durable import App, Client, Orchestration, OrchestrationContext, TaskFailedError
from durable.testing import Environment, SimulationFailedError, simulate
from samples import tested_saga
from samples.tested_saga import Trip, book_trip, release, reserve, reserved

TRIP = Trip("Ada", ["train", "hotel", "museum"])
ALL = {"train for Ada", "hotel for Ada", "museum for Ada"}

hasty = App()
hasty.include(tested_saga.app)


@hasty.orchestrator
def hasty_trip(ctx: OrchestrationContext, trip: Trip) -> Orchestration[str]:
    """The mistake: undoes what is known to have been done, and no more."""
    done: list[str] = []
    try:
        for service in trip.services:
            name = f"{service} for {trip.traveller}"
            yield ctx.call_activity(reserve, name)
            done.append(name)
    except TaskFailedError:
        for name in reversed(done):
            yield ctx.call_activity(release, name)
        return "not booked"
    return "booked"


async def careful_scenario(client: Client) -> None:
    reserved.clear()
    outcome = await client.run(book_trip, TRIP)
    assert reserved == (ALL if outcome == "booked" else set())


async def hasty_scenario(client: Client) -> None:
    reserved.clear()
    outcome = await client.run(hasty_trip, TRIP)
    assert reserved == (ALL if outcome == "booked" else set())


def test_the_saga_leaves_nothing_behind_under_any_crash() -> None:
    simulate(tested_saga.app, careful_scenario, schedules=100, seed=0)


def test_a_missing_compensation_is_found_only_under_a_crash() -> None:
    async def nothing_goes_wrong(env: Environment) -> None:
        await hasty_scenario(env.client)
        env.fail(reserve, ConnectionError("no line"))
        await hasty_scenario(env.client)

    Environment(hasty).run(nothing_goes_wrong)  # ordinary tests find nothing
    with pytest.raises(SimulationFailedError, match="fails with a single fault") as raised:
        simulate(hasty, hasty_scenario, schedules=200, seed=0)
    assert "the process is killed" in str(raised.value)


HISTORY = """\
OrchestrationStarted book_trip {'traveller': 'Ada', 'services': ['train', 'rocket']}
ActivityScheduled #0 reserve 'train for Ada'
ActivityCompleted #0
ActivityScheduled #1 reserve 'rocket for Ada'
ActivityFailed #1 samples.tested_saga.SoldOutError: there is no rocket left
ActivityScheduled #2 release 'rocket for Ada'
ActivityCompleted #2
ActivityScheduled #3 release 'train for Ada'
ActivityCompleted #3
OrchestrationCompleted 'not booked: there is no rocket left'
"""


async def test_the_history_of_a_trip_that_is_undone() -> None:
    reserved.clear()
    async with Environment(tested_saga.app) as env:
        await env.client.run(book_trip, Trip("Ada", ["train", "rocket"]), instance_id="trip")
        assert env.history_text("trip") == HISTORY
