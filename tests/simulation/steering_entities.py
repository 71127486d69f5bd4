"""A case whose entities are signaled, called, locked and deleted at random, by clients and by orchestrations that are steered.

Each operation that is applied tells a witness, so that what must hold can be said although entities are deleted: everything
is applied once, what one sender sends to one entity in the order in which it was sent, and no lock outlives its holder. What
an orchestration has not done when it is ended by force, it may leave undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

from durable import (
    Client,
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    Handle,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationStatus,
    ReusePolicy,
)
from durable.client.starting import StartOptions
from tests.simulation.cases import Notes, app, case
from tests.simulation.steering import NOT_NOW, act_at_random

KEYS = ("a", "b", "c")
CALLERS = ("one", "other")
STEPS = 25
WITNESS = EntityId(Notes, "witness")


@app.entity
class Watched:
    """Tells the witness of every operation that it performs."""

    count: int = 0

    def note(self, ctx: EntityContext, text: str) -> int:
        self.count += 1
        ctx.signal_entity(WITNESS, "tell", f"{ctx.id.key} {text}")
        return self.count

    def refuse(self, ctx: EntityContext, text: str) -> None:
        self.count += 1
        ctx.signal_entity(WITNESS, "tell", f"{ctx.id.key} refused {text}")
        raise ValueError(text)

    def leave(self, ctx: EntityContext, text: str) -> None:
        ctx.signal_entity(WITNESS, "tell", f"{ctx.id.key} {text}")
        ctx.delete_state()


def watched(key: str) -> EntityId[Watched]:
    return EntityId(Watched, key)


async def do_one(ctx: OrchestrationContext, what: str, keys: str, text: str) -> None:
    """Do one thing with the first of the entities, or with all."""
    first = watched(keys[0])
    if what in ("call", "leave"):
        await ctx.call_entity(first, "note" if what == "call" else what, text)
    elif what == "refuse":
        with contextlib.suppress(EntityOperationFailedError):
            await ctx.call_entity(first, "refuse", text)
    elif what == "signal":
        ctx.signal_entity(first, "note", text)
    elif what == "later":
        ctx.signal_entity(first, "note", f"later {text}", at=timedelta(seconds=0.5))
    elif what == "lock":
        async with ctx.lock(*map(watched, keys)):
            for key in keys:
                await ctx.call_entity(watched(key), "note", text)
            ctx.signal_entity(first, "note", f"{text} last")
            await ctx.create_timer(timedelta(seconds=0.3))
    elif what == "hurry":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1), ctx.lock(*map(watched, keys)):
                await ctx.create_timer(timedelta(seconds=0.2))
    elif what == "hold":
        async with ctx.lock(*map(watched, keys)):
            await ctx.wait_for_external_event("go")


@app.orchestrator
async def caller(ctx: OrchestrationContext, plan: list[list[str]]) -> int:
    """Do what is planned, one thing after the other; the rest in another generation, where it says so."""
    for place, (what, keys, text) in enumerate(plan):
        if what == "anew":
            ctx.continue_as_new(plan[place + 1 :])
        elif what == "fail":
            raise ValueError(text)
        await do_one(ctx, what, keys, text)
    return len(plan)


WHATS = (
    "call",
    "call",
    "signal",
    "signal",
    "later",
    "refuse",
    "leave",
    "lock",
    "lock",
    "hurry",
    "hold",
    "anew",
    "fail",
)


class Throng:
    """Somebody who signals, and has orchestrations do so."""

    def __init__(self, client: Client, name: str, dice: random.Random, numbers: Iterator[int]) -> None:
        self._client, self._name, self._dice, self._numbers = client, name, dice, numbers
        self._callers: dict[str, Handle[Any]] = {}
        self.runs: list[tuple[Handle[Any], list[list[str]]]] = []
        self._rewound: set[str | None] = set()
        self.sent: list[str] = []
        self.sent_later: list[str] = []

    def _text(self) -> str:
        return f"{self._name}-{next(self._numbers):05}"

    async def _signal(self) -> None:
        for _ in range(self._dice.choice((1, 1, 3))):
            key, text = self._dice.choice(KEYS), self._text()
            operation = self._dice.choice(("note", "note", "note", "leave"))
            await self._client.signal_entity(watched(key), operation, text)
            self.sent.append(f"{key} {text}")

    async def _refuse(self) -> None:
        await self._client.signal_entity(watched(self._dice.choice(KEYS)), "refuse", self._text())

    async def _signal_later(self) -> None:
        key, text = self._dice.choice(KEYS), f"later {self._text()}"
        later = timedelta(seconds=self._dice.choice((0.2, 1.0, 5.0)))
        await self._client.signal_entity(watched(key), "note", text, at=later)
        self.sent_later.append(f"{key} {text}")

    async def _begin(self) -> None:
        name = f"{self._name} {self._dice.choice(CALLERS)}"
        whats = self._dice.choices(WHATS, k=self._dice.randint(1, 6))
        plan = [[what, "".join(self._dice.sample(KEYS, self._dice.randint(1, 3))), self._text()] for what in whats]
        policy = self._dice.choice((ReusePolicy.TERMINATE_AND_REPLACE, ReusePolicy.REPLACE_FINISHED))
        events = [("go", None)] * self._dice.randrange(2)
        options = StartOptions(instance_id=name, reuse_policy=policy, events=events)
        handle = await self._client.start(caller, plan, **options)
        self._callers[name] = handle
        self.runs.append((handle, plan))

    async def _steer(self) -> None:
        if not self._callers:
            return
        handle = self._callers[self._dice.choice(list(self._callers))]

        async def go() -> None:
            await handle.raise_event("go")

        async def rewind() -> None:
            self._rewound.add(handle.run_id)
            await handle.rewind()

        ways: tuple[Callable[[], Awaitable[Any]], ...] = (
            *(go, go, handle.suspend, handle.resume, handle.cancel),
            *(handle.terminate, rewind, handle.purge),
        )
        await self._dice.choice(ways)()

    async def _wait(self) -> None:
        await asyncio.sleep(self._dice.choice((0.02, 0.1, 0.3, 1.0)))

    async def act(self) -> None:
        """Do whatever comes, for a while."""
        ways = {
            self._signal: 6,
            self._refuse: 1,
            self._signal_later: 2,
            self._begin: 4,
            self._steer: 4,
            self._wait: 5,
        }
        await act_at_random(self._dice, ways, STEPS)

    async def go_on(self) -> None:
        """Let everything go on that has not ended."""
        for handle, plan in self.runs:
            with contextlib.suppress(*NOT_NOW):
                await handle.resume()
                for _ in plan:
                    await handle.raise_event("go")

    async def end(self) -> None:
        """See everything end. What was rewound into a critical section stalls: nobody could answer it any more."""
        for handle, _ in self.runs:
            with contextlib.suppress(InstanceNotFoundError):
                while not (await handle.state()).status.is_finished:
                    with contextlib.suppress(TimeoutError):
                        await handle.wait(timeout=60)
                    if (await handle.state()).status is OrchestrationStatus.STALLED:
                        with contextlib.suppress(*NOT_NOW):
                            await handle.terminate()

    def maybe_again(self) -> set[str]:
        """Return what may be applied twice: what a run did in the step in which it ended is done anew when it is rewound."""
        runs = [plan for handle, plan in self.runs if handle.run_id in self._rewound]
        return {text for plan in runs for step in plan for text in texts_of_step(*step)}

    async def done(self) -> tuple[set[str], set[str]]:
        """Return what must have been applied, and what may have been beside it."""
        must, may = set(self.sent + self.sent_later), set[str]()
        for handle, plan in self.runs:
            texts = {text for step in plan for text in texts_of_step(*step)}
            try:
                has_done_all = (await handle.state()).status is OrchestrationStatus.COMPLETED
            except InstanceNotFoundError:
                has_done_all = False
            (must if has_done_all else may).update(texts)
        return must, may


def texts_of_step(what: str, keys: str, text: str) -> list[str]:
    """Return what the witness is told of a step."""
    if what == "lock":
        return [*(f"{key} {text}" for key in keys), f"{keys[0]} {text} last"]
    if what == "later":
        return [f"{keys[0]} later {text}"]
    return [f"{keys[0]} {text}"] if what in ("call", "leave", "signal") else []


async def witnessed(client: Client, must: set[str]) -> list[str]:
    """Return what the witness was told, once it is all that must be there: for some of it a clock may say ten years."""
    pause = 0.5
    while True:
        notes = await client.get_entity(WITNESS)
        texts = [] if notes is None else notes.state.texts
        if must <= set(texts) or pause > 1e9:
            return texts
        await asyncio.sleep(pause)
        pause *= 2


@case()
async def entities_at_random(client: Client) -> None:
    probe = await client.start(caller, [["lock", "abc", "x-0"]])
    dice, numbers = random.Random(probe.run_id), itertools.count(1)
    throngs = [Throng(client, name, random.Random(dice.random()), numbers) for name in ("x", "y")]
    await asyncio.gather(*(throng.act() for throng in throngs))
    for throng in throngs:
        await throng.go_on()
    for throng in throngs:
        await throng.end()
    await probe.wait()
    assert await client.run(caller, [["lock", "abc", "z-1"]]) == 1  # nothing is locked any more
    must, may = (
        {"a z-1", "b z-1", "c z-1"},
        {f"{key} x-0{rest}" for key in "abc" for rest in ("", " last")} | {"a z-1 last"},
    )
    for throng in throngs:
        found = await throng.done()
        must |= found[0]
        may |= found[1]
    texts = await witnessed(client, must)
    assert must <= set(texts), f"never applied: {sorted(must - set(texts))}"
    assert set(texts) <= must | may, f"not asked for: {sorted(set(texts) - must - may)}"
    again = throngs[0].maybe_again() | throngs[1].maybe_again()
    twice = {text for text in texts if texts.count(text) > 1}
    assert twice <= again, f"applied twice: {sorted(twice - again)}"
    for throng, key in itertools.product(throngs, KEYS):
        sent = [text for text in throng.sent if text.startswith(key)]
        assert [text for text in texts if text in sent] == sent
