"""What clients do during a storm: start orchestrations of every kind, raise events, cancel, and check what comes out."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from durable import Client, Handle, OrchestrationStatus
from durable.errors import InstanceFinishedError, StoreUnavailableError
from durable.events import InstanceKey
from durable.invariants import Answers
from durable.provider import Status

PATIENCE_S = 120.0
"""How long an instance may take once nothing is killed any more; a busy machine needs a few seconds."""

LOOK_S = 5.0


class Load:
    """Keeps so many instances in flight until it is told to end. `wrong` says what did not come out as it must."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._numbers = itertools.count()
        self._inboxes: list[str] = []
        self._is_ending = False
        self._give_up_at = math.inf
        self.answers = Answers()
        self.tokens: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unanswered = 0

    def end(self) -> None:
        """Start nothing more; what runs is waited for."""
        self._is_ending = True
        self._give_up_at = asyncio.get_running_loop().time() + PATIENCE_S

    async def run(self, in_flight: int) -> None:
        """Start one instance after the other, `in_flight` at a time."""
        await asyncio.gather(*(self._keep_going() for _ in range(in_flight)))

    async def _keep_going(self) -> None:
        kinds = list(self._KINDS)
        while not self._is_ending:
            kind = self._chance.choice(kinds)
            name = f"{kind}-{next(self._numbers)}"
            try:
                await self._KINDS[kind](self, kind, name)
            except StoreUnavailableError:  # the outcome is unknown: nothing can be expected of this one
                self.unanswered += 1

    async def _start(self, kind: str, name: str, input: Any) -> Handle[Any]:
        handle = await self._client.start(kind, input, instance_id=name)
        assert handle.run_id is not None
        self.answers.started[handle.run_id] = InstanceKey(name)
        return handle

    async def _end_of(self, handle: Handle[Any], *expected: OrchestrationStatus) -> Any:
        """Wait for an instance's end; return its output."""
        while True:
            try:
                state = await handle.wait(timeout=LOOK_S)
                break
            except TimeoutError:
                if asyncio.get_running_loop().time() > self._give_up_at:
                    self.wrong.append(f"I3: it never ended: {await handle.state()}")
                    return None
        assert handle.run_id is not None
        self.answers.ended[handle.run_id] = Status[state.status.name]
        if state.status not in (expected or (OrchestrationStatus.COMPLETED,)):
            self.wrong.append(f"I1: it ended {state.status}, which nobody asked for: {state}")
            return None
        return state.output

    def _check(self, name: str, output: Any, numbers: list[int]) -> None:
        """Check the outputs of activities: [number, token] each, in this order, and no token ever twice."""
        if output is None:
            return  # said already
        if [number for number, _ in output] != numbers:
            self.wrong.append(f"I2: '{name}' gave {output}, not {numbers}")
        self.tokens.update(token for _, token in output)

    # ---- kinds of instances

    async def _steps(self, kind: str, name: str) -> None:
        length = self._chance.randint(1, 8)
        handle = await self._start(kind, name, length)
        if self._chance.random() < 0.2:
            try:
                await handle.suspend("for a while")
                await asyncio.sleep(self._chance.uniform(0, 0.2))
                await handle.resume("again")
            except InstanceFinishedError:
                pass  # it was quicker
        self._check(name, await self._end_of(handle), [0] if kind == "naps" else list(range(length)))

    async def _family(self, kind: str, name: str) -> None:
        length = self._chance.randint(1, 4)
        handle = await self._start(kind, name, length)
        self._check(name, await self._end_of(handle), [0, *[0, 1] * length])

    async def _events(self, kind: str, name: str) -> None:
        count = self._chance.randint(1, 10)
        handle = await self._start(kind, name, [count, []] if kind == "relay" else count)
        sent = [f"{name}-{n}" for n in range(count)]
        for data in sent:
            assert handle.run_id is not None
            self.answers.asked[handle.run_id, "item"] += 1
            await handle.raise_event("item", data)
            self.answers.asked[handle.run_id, "item"] -= 1
            self.answers.raised[handle.run_id, "item"] += 1
            await asyncio.sleep(self._chance.choice([0, 0, 0.02]))
        output = await self._end_of(handle)
        if output is not None and output != sent:
            self.wrong.append(f"I7: '{name}' was sent {sent} and has seen {output}")

    async def _sends(self, kind: str, name: str) -> None:
        target = await self._start("inbox", f"inbox-of-{name}", 3)
        handle = await self._start(kind, name, target.instance_id)
        self._check(name, await self._end_of(handle), [0, 1, 2])
        output = await self._end_of(target)
        if output is not None and output != [f"{name}-{n}" for n in range(3)]:
            self.wrong.append(f"I7: '{target.instance_id}' has seen {output}")

    async def _patient(self, kind: str, name: str) -> None:
        handle = await self._start(kind, name, 1)
        await asyncio.sleep(self._chance.uniform(0, 0.3))
        if self._chance.random() < 0.3:
            await handle.terminate("enough")
            await self._end_of(handle, OrchestrationStatus.TERMINATED)
        else:
            await handle.cancel("enough")
            await self._end_of(handle, OrchestrationStatus.CANCELLED)

    _KINDS: dict[str, Callable[[Load, str, str], Awaitable[None]]] = {
        "chain": _steps,
        "fan": _steps,
        "tries": _steps,
        "naps": _steps,
        "family": _family,
        "inbox": _events,
        "relay": _events,
        "sends": _sends,
        "patient": _patient,
    }
