"""Saga: several bookings that must all hold, or none. What was done is undone in reverse order.

The compensations are ordinary code in an `except` block. A crash in the middle of them is no different from any other:
the orchestration goes on undoing where it was.

    python samples/saga.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import App, NonRetryableError, Orchestration, OrchestrationContext, TaskFailedError, Worker

app = App()


@dataclasses.dataclass
class Booking:
    service: str
    traveller: str


class SoldOutError(NonRetryableError):
    """No further attempt will find a seat."""


@app.activity
def book(booking: Booking) -> str:
    if booking.service == "rocket":
        raise SoldOutError(f"no {booking.service} left for {booking.traveller}")
    return f"{booking.service} for {booking.traveller}"


@app.activity
def cancel(confirmation: str) -> str:
    return f"cancelled: {confirmation}"


@dataclasses.dataclass
class Trip:
    traveller: str
    services: list[str]


@app.orchestrator
def book_trip(ctx: OrchestrationContext, trip: Trip) -> Orchestration[list[str]]:
    booked: list[str] = []
    undone: list[str] = []
    try:
        for service in trip.services:
            confirmation = yield from ctx.call_activity(book, Booking(service, trip.traveller))
            booked.append(confirmation)
    except TaskFailedError as error:
        if not error.details.is_caused_by(SoldOutError):
            raise
        for confirmation in reversed(booked):
            undone.append((yield from ctx.call_activity(cancel, confirmation)))
        return [f"failed: {error.details.message}", *undone]
    return booked


async def main(store: str = "memory://") -> list[list[str]]:
    async with Worker(app, store) as worker:
        trips = [Trip("Ada", ["train", "hotel"]), Trip("Bob", ["train", "hotel", "rocket"])]
        outcomes = [await worker.client.run(book_trip, trip, timeout=30) for trip in trips]
    for outcome in outcomes:
        print("; ".join(outcome))
    return outcomes


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
