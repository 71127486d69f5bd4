"""A saga that holds under any crash: it notes how to undo a step before it takes the step.

A worker can die between the work of an activity and its record; then the activity runs again. The service here refuses a
second reservation under one name, so the saga sees a failure although there is a reservation. Whoever undoes only what has
succeeded leaves it behind. That shows under a crash alone: `tests/samples/test_tested_saga.py` finds it by
`durable.testing.simulate`, and holds this version to it.

    python samples/tested_saga.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import App, Orchestration, OrchestrationContext, TaskFailedError, Worker

app = App()

reserved: set[str] = set()
"""What the service on the other side of the network knows."""


@dataclasses.dataclass
class Trip:
    traveller: str
    services: list[str]


class SoldOutError(Exception):
    pass


@app.activity
def reserve(name: str) -> None:
    if name.startswith("rocket"):
        raise SoldOutError("there is no rocket left")
    if name in reserved:
        raise ValueError(f"{name} is reserved already")
    reserved.add(name)


@app.activity
def release(name: str) -> None:
    reserved.discard(name)  # does nothing where there is nothing: it may run twice, or for a step that never was


@app.orchestrator
def book_trip(ctx: OrchestrationContext, trip: Trip) -> Orchestration[str]:
    to_undo: list[str] = []
    try:
        for service in trip.services:
            name = f"{service} for {trip.traveller}"
            to_undo.append(name)  # before the step: one that fails may have been taken all the same
            yield ctx.call_activity(reserve, name)
    except TaskFailedError as error:
        for name in reversed(to_undo):
            yield ctx.call_activity(release, name)
        return f"not booked: {error.details.message}"
    return "booked"


async def main(store: str = "memory://") -> list[str]:
    async with Worker(app, store) as worker:
        trips = [Trip("Ada", ["train", "hotel"]), Trip("Bob", ["train", "hotel", "rocket"])]
        outcomes = [await worker.client.run(book_trip, trip, timeout=30) for trip in trips]
    print(*outcomes, sorted(reserved), sep="\n")
    return outcomes


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
