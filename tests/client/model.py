"""What a client must see of an instance, said without a store, a worker or a race: the model of `test_against_the_model.py`.

A run takes what is sent to it when a worker is up: steering first, in the order in which it was sent, then the rest. Of what
waits when a worker comes back, an end by force is seen before everything else.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from durable import App, OrchestrationContext, OrchestrationStatus

PENDING, RUNNING = OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING
SUSPENDED, COMPLETED = OrchestrationStatus.SUSPENDED, OrchestrationStatus.COMPLETED
FAILED, CANCELLED = OrchestrationStatus.FAILED, OrchestrationStatus.CANCELLED
TERMINATED = OrchestrationStatus.TERMINATED

END, FAIL, AGAIN = "end", "fail", "again"
"""What an event tells the program to do; any other is kept and counted."""

PLAIN, STUBBORN = "plain", "stubborn"
"""The programs: one lets a cancellation out, the other goes on."""

app = App()


@app.orchestrator(name=PLAIN)
async def plain(ctx: OrchestrationContext, input: Any) -> list[Any]:
    return await _collect(ctx, input)


@app.orchestrator(name=STUBBORN)
async def stubborn(ctx: OrchestrationContext, input: Any) -> list[Any]:
    while True:
        try:
            return await _collect(ctx, input)
        except asyncio.CancelledError:
            continue


async def _collect(ctx: OrchestrationContext, input: Any) -> list[Any]:
    found = [input]
    while True:
        ctx.set_custom_status(found)
        match await ctx.wait_for_external_event("go"):
            case "end":
                return found
            case "fail":
                raise ValueError(f"asked to fail with {input}")
            case "again":
                ctx.continue_as_new(input)
            case other:
                found.append(other)


@dataclasses.dataclass
class Run:
    """One life of an id. `sent` waits for a worker: steering and events, in the order in which they were sent.

    `brought` are the events that came with the start: they wait for its time with it.
    """

    program: str
    input: Any
    is_due: bool = True
    brought: list[Any] = dataclasses.field(default_factory=list)
    status: OrchestrationStatus = PENDING
    custom_status: Any = None
    output: Any = None
    generation: int = 0
    has_arrived: bool = False
    is_started: bool = False
    is_cancelled: bool = False
    found: list[Any] = dataclasses.field(default_factory=list)
    held: list[Any] = dataclasses.field(default_factory=list)
    sent: list[tuple[str, Any]] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return self.status.is_finished

    def take_everything(self) -> None:
        """Do what a worker does with all that waits."""
        sent, self.sent = self.sent, []
        steering = [item for item in sent if item[0] != "event"]
        events = [item for item in sent if item[0] == "event"]
        if not self.is_finished and ("terminate", None) in steering:
            steering.remove(("terminate", None))
            self._end(TERMINATED)
        for item in steering:
            self._take(item)
        if not self.is_due and not self.is_finished:
            self.sent = events
            return
        if self.is_due:
            brought, self.brought = self.brought, []
            start = [] if self.has_arrived else [("start", None)]
            self.has_arrived = True
            events = [*start, *(("event", data) for data in brought), *events]
        for item in events:
            self._take(item)

    def _take(self, item: tuple[str, Any]) -> None:
        kind, data = item
        if self.is_finished:
            if kind != "start":
                self.dropped.append(kind)
        elif kind == "cancel" and (self.is_cancelled or any(held == "cancel" for held, _ in self.held)):
            self.dropped.append(kind)  # it is raised once
        elif kind == "suspend":
            if self.status is SUSPENDED:
                self.dropped.append(kind)
            self.status = SUSPENDED
        elif kind == "resume":
            if self.status is not SUSPENDED:
                self.dropped.append(kind)
                return
            self.status = RUNNING if self.is_started else PENDING
            self._deliver_held()
        elif self.status is SUSPENDED:
            self.held.append(item)
        else:
            self._apply(kind, data)

    def _deliver_held(self) -> None:
        held, self.held = self.held, []
        while held:
            generation = self.generation
            self._take(held.pop(0))
            if self.generation != generation:  # the next one begins with the cancel, if there is one
                held.sort(key=lambda item: item[0] != "cancel")

    def _apply(self, kind: str, data: Any) -> None:
        if kind == "start":
            self.is_started = True
            self._begin()
        elif kind == "cancel":
            self.is_cancelled = True
            if self.program == PLAIN or not self.is_started:
                self._end(CANCELLED)
            else:
                self._begin()
        elif data == END:
            self.output = self.found
            self._end(COMPLETED)
        elif data == FAIL:
            self._end(FAILED)
        elif data == AGAIN:
            self.generation += 1
            self.is_cancelled = False
            self._begin()
        else:
            self.found = [*self.found, data]
            self.custom_status = self.found

    def _begin(self) -> None:
        self.status = RUNNING
        self.found = self.custom_status = [self.input]

    def _end(self, status: OrchestrationStatus) -> None:
        self.status = status
        held, self.held = self.held, []
        self.dropped += [kind for kind, _ in held if kind != "start"]
