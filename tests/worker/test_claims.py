"""Claiming and reporting queued attempts: answers that are lost, and outcomes that the store cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from durable import App, OrchestrationContext, Worker, when_all
from durable.errors import LimitExceededError, StoreUnavailableError
from durable.provider import ActivityRow
from durable.worker import claims
from tests.worker.calls import PATIENCE_S, calls_and_tells, run
from tests.worker.lives import provider_of


@pytest.mark.parametrize("lost", [1, 3])
async def test_an_attempt_whose_claim_had_no_answer_runs(
    store_url: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has given the attempts to this worker, which never heard of it: nobody else will run them."""
    monkeypatch.setattr(claims, "POLL_S", 0.02)
    app, ran = App(), []

    @app.activity(queue="gpu")
    async def act(number: int) -> int:
        ran.append(number)
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        return await when_all([ctx.call_activity(act, number) for number in range(5)])

    async with provider_of(store_url) as provider:
        kind = type(provider)
        claim, answers = kind.claim, 0

        async def claim_without_answer(self: Any, *arguments: Any, **options: Any) -> Sequence[ActivityRow]:
            nonlocal answers
            rows: Sequence[ActivityRow] = await claim(self, *arguments, **options)
            answers += bool(rows)
            if rows and answers <= lost:
                raise StoreUnavailableError("the answer was lost")
            return rows

        monkeypatch.setattr(kind, "claim", claim_without_answer)
        gpu = Worker(app, store_url, queues=("gpu",), orchestrations=False, max_activities=2)
        async with Worker(app, store_url) as worker, gpu:
            assert await worker.client.run(main, timeout=PATIENCE_S) == list(range(5))
    assert answers > lost
    assert sorted(ran) == list(range(5))


async def test_what_a_claim_brings_is_not_begun_once_the_lease_may_be_lost(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker stood still before the answer came to it: another one may have run the attempt by now."""
    monkeypatch.setattr(claims, "POLL_S", 0.02)
    app, begun_after = App(), []

    @app.activity(queue="gpu")
    async def act() -> None:
        begun_after.append(answers)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(act)

    answers = 0
    async with provider_of(store_url) as provider:
        kind = type(provider)
        claim = kind.claim

        async def claim_and_stand_still(self: Any, *arguments: Any, **options: Any) -> Sequence[ActivityRow]:
            nonlocal answers
            rows: Sequence[ActivityRow] = await claim(self, *arguments, **options)
            answers += bool(rows)
            if rows and answers == 1:
                assert gpu._parts is not None
                gpu._parts.keeper._valid_until = 0.0
                gpu._parts.keeper.wake()  # it renews its lease, which nobody has taken
            return rows

        monkeypatch.setattr(kind, "claim", claim_and_stand_still)
        gpu = Worker(app, store_url, queues=("gpu",), orchestrations=False)
        async with Worker(app, store_url) as worker, gpu:
            await worker.client.run(main, timeout=PATIENCE_S)
    assert begun_after == [2]


async def test_an_outcome_that_is_over_the_stores_limit_is_a_failure_that_says_so(tmp_path: Path) -> None:
    app, ran = App(), []

    @app.activity(queue="gpu")
    async def act() -> str:
        ran.append(1)
        return "x" * 60_000

    calls_and_tells(app, lambda ctx: ctx.call_activity(act))
    store_url = f"memory://{tmp_path.name}?message_bytes_max=50000"
    async with Worker(app, store_url, queues=("gpu",), orchestrations=False):
        told = await run(app, store_url)
    assert told["type"].endswith(LimitExceededError.__name__)
    assert "50000" in told["message"]
    assert told["final"]
    assert ran == [1]
