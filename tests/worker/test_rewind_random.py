"""Rewinding orchestrations of every build: what had succeeded never runs again, and once all is mended it completes.

Goal: no way of putting activities together is forgotten. Method: random trees of calls one after the other, side by side, a
bounded number at a time, with fallbacks and with notices of failures, in which each activity has a name of its own and some
are broken. A tree fails, everything is mended, and it is rewound; the seed in a failure's text repeats it.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from durable import App, OrchestrationContext, OrchestrationStatus, TaskFailedError, Worker

TREES = 25
REWINDS_MAX = 6
"""A failure that was behind another one may show only when that one is mended."""

Node = list[Any]


class Trees:
    """Draws trees; `names` are those of the activities in the last one."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.names: list[str] = []

    def name(self) -> str:
        self.names.append(f"n{len(self.names)}")
        return self.names[-1]

    def tree(self, depth: int = 3) -> Node:
        kinds = ["call"] if depth == 0 else ["call", "seq", "all", "settled", "map", "bounded", "fallback", "notice"]
        kind = self._dice.choice(kinds)
        few = range(self._dice.randint(2, 4))
        if kind == "call":
            return ["call", self.name()]
        if kind == "map":
            return ["map", [self.name() for _ in few], self._dice.randint(1, 3)]
        if kind in ("fallback", "notice"):
            return [kind, self.tree(depth - 1), self.name()]
        return [kind, [self.tree(depth - 1) for _ in few], self._dice.randint(1, 2)]

    def broken(self) -> list[str]:
        return [name for name in self.names if self._dice.random() < 0.3]


class World:
    def __init__(self) -> None:
        self.app = App()
        self.broken: set[str] = set()
        self.ran: list[str] = []

        @self.app.activity
        def work(name: str) -> str:
            self.ran.append(name)
            if name in self.broken:
                raise ValueError("it is broken")
            return name.upper()

        async def grow(ctx: OrchestrationContext, node: Node) -> list[str]:
            kind, what, *more = node
            if kind == "call":
                return [await ctx.call_activity(work, what)]
            if kind == "map":
                return await ctx.map(work, what, concurrency=more[0])
            if kind in ("fallback", "notice"):
                try:
                    return await grow(ctx, what)
                except TaskFailedError:
                    instead = await ctx.call_activity(work, more[0])
                    if kind == "notice":
                        raise
                    return [instead]
            if kind == "seq":
                return [name for inner in what for name in await grow(ctx, inner)]
            bound = asyncio.Semaphore(more[0] if kind == "bounded" else len(what))

            async def one(inner: Node) -> list[str]:
                async with bound:
                    return await grow(ctx, inner)

            found = await asyncio.gather(*map(one, what), return_exceptions=kind != "all")
            for outcome in found:
                if isinstance(outcome, BaseException):
                    raise outcome
            return [name for names in found for name in names]  # type: ignore[union-attr]

        @self.app.orchestrator
        async def tree(ctx: OrchestrationContext, root: Node) -> list[str]:
            return ["first", *await ctx.map(work, ["before"]), *await grow(ctx, root), *await ctx.map(work, ["after"])]

        self.tree = tree


@pytest.mark.parametrize("seed", range(4))
async def test_what_had_succeeded_never_runs_again(seed: int) -> None:
    world = World()
    rewound = 0
    async with Worker(world.app, "memory://", strict=True) as worker:
        for number in range(seed * TREES, (seed + 1) * TREES):
            trees = Trees(number)
            root = trees.tree()
            world.broken = set(trees.broken())
            handle = await worker.client.start(world.tree, root)
            state = await handle.wait(timeout=20)
            for _ in range(REWINDS_MAX):
                if state.status is OrchestrationStatus.COMPLETED:
                    break
                rewound += 1
                history: Any = await handle.history()
                succeeded = {e.result for e in history if type(e).__name__ in ("ActivityCompleted", "AnswerKept")}
                world.broken.clear()
                world.ran.clear()
                await handle.rewind()
                state = await handle.wait(timeout=20)
                again = succeeded & {name.upper() for name in world.ran}
                assert not again, f"tree {number} ran {again} again: {root}"
                assert len(world.ran) == len(set(world.ran)), f"tree {number} ran {world.ran}: {root}"
            assert state.status is OrchestrationStatus.COMPLETED, f"tree {number}: {state.failure_details}: {root}"
            assert state.output[:2] == ["first", "BEFORE"]
            assert state.output[-1] == "AFTER"
    assert rewound > TREES // 4, "too few of the trees fail"
