"""Human approval: wait for a decision from outside, but not for ever.

An expense claim waits for the event `decision`. Nothing is held in memory for it: the wait may last for weeks and
survives every restart. Who does not answer in time has refused. People mistype: an answer that is no `Decision` is
taken out of the queue with an `EventDataError`, and the orchestrator goes on waiting for a better one.

    python samples/human_approval.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys
from datetime import timedelta

from durable import App, EventDataError, OrchestrationContext, Worker

app = App()


@dataclasses.dataclass
class Claim:
    employee: str
    amount: int
    answer_within: timedelta = timedelta(days=3)


@dataclasses.dataclass
class Decision:
    approved: bool
    by: str


@app.activity
def ask_for_approval(claim: Claim) -> None:
    print(f"to the manager: {claim.employee} spent {claim.amount}, is that right?")


@app.activity
def pay_out(claim: Claim) -> str:
    return f"{claim.amount} paid to {claim.employee}"


@app.orchestrator
async def approve_expense(ctx: OrchestrationContext, claim: Claim) -> str:
    await ctx.call_activity(ask_for_approval, claim)
    ctx.set_custom_status("waiting for a decision")
    try:
        async with asyncio.timeout(claim.answer_within.total_seconds()):  # durable, as all of asyncio's tools here
            decision = await understood_decision(ctx)
    except TimeoutError:
        return f"nobody answered {claim.employee} in time"
    if not decision.approved:
        return f"refused by {decision.by}"
    return await ctx.call_activity(pay_out, claim)


async def understood_decision(ctx: OrchestrationContext) -> Decision:
    while True:
        try:
            return await ctx.wait_for_external_event("decision", Decision)
        except EventDataError as error:
            ctx.set_custom_status(f"waiting for a decision; the last answer was not understood: {error}")


async def main(store: str = "memory://") -> list[str]:
    async with Worker(app, store) as worker:
        answered = await worker.client.start(approve_expense, Claim("Ada", 120))
        ignored = await worker.client.start(approve_expense, Claim("Bob", 80, answer_within=timedelta(milliseconds=50)))
        await answered.raise_event("decision", "yes, of course")
        await answered.raise_event("decision", Decision(approved=True, by="Grace"))
        outcomes = [await answered.result(timeout=30), await ignored.result(timeout=30)]
    print(*outcomes, sep="\n")
    return outcomes


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
