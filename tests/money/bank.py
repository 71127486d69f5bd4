"""The bank of `samples/bank_transfer.py`, and what must be true of its accounts whatever happens to its workers.

Money is neither made nor lost; nobody who locks all accounts ever counts another sum than that with which they were opened;
and each account holds what the transfers that were made, each of them once, have left there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from durable import App, Client, EntityId, Handle, OrchestrationContext
from samples import bank_transfer
from samples.bank_transfer import OPENING_BALANCE, Account, Transfer, transfer

app = App()
app.include(bank_transfer.app)


@app.orchestrator
async def audit(ctx: OrchestrationContext, owners: list[str]) -> int:
    """Count the money of all accounts while nobody else can move any."""
    accounts = [EntityId(Account, owner) for owner in owners]
    async with ctx.lock(*accounts):
        return sum([await ctx.call_entity(account, Account.deposit, 0) for account in accounts])


def draw_orders(owners: Sequence[str], count: int, seed: int) -> list[Transfer]:
    """Return transfers between these, some of more than there is."""
    dice = random.Random(seed)
    pairs = [dice.sample(owners, 2) for _ in range(count)]
    return [Transfer(giver, taker, dice.randrange(1, 90)) for giver, taker in pairs]


async def violations_of(
    client: Client,
    owners: Sequence[str],
    orders: Sequence[Transfer],
    transfers: Sequence[Handle[str]],
    audits: Sequence[Handle[int]],
    *,
    timeout: float | None = None,
) -> list[str]:
    """Wait for everything to end; return what is wrong with the accounts."""
    outcomes = [await handle.result(timeout) for handle in transfers]
    counted = [await handle.result(timeout) for handle in audits]
    balances = {account.id.key: account.state.balance async for account in client.query_entities(Account)}
    expected = dict.fromkeys(owners, OPENING_BALANCE)
    for order, outcome in zip(orders, outcomes, strict=True):
        if not outcome.startswith("refused"):
            expected[order.giver] -= order.amount
            expected[order.taker] += order.amount
    whole = OPENING_BALANCE * len(owners)
    found = [f"an audit counted {count}, and there are {whole}" for count in counted if count != whole]
    for owner, balance in expected.items():
        if balances.get(owner, OPENING_BALANCE) != balance:
            found.append(f"{owner} has {balances.get(owner)}, and the transfers have left {balance}")
    if sum(balances.values()) != OPENING_BALANCE * len(balances):
        found.append(f"the accounts hold {sum(balances.values())}")
    return found


async def scenario(client: Client) -> None:
    """A morning at the bank, for the simulator: transfers and audits at once."""
    owners = ["Ada", "Bob", "Eve"]
    orders = draw_orders(owners, 6, seed=5)
    transfers, audits = [], []
    for number, order in enumerate(orders):
        transfers.append(await client.start(transfer, order))
        if number % 3 == 1:
            audits.append(await client.start(audit, owners))
    found = await violations_of(client, owners, orders, transfers, audits)
    assert not found, "; ".join(found)


def names(count: int) -> list[str]:
    """Return the names of account owners."""
    return [f"owner-{number}" for number in itertools.islice(itertools.count(1), count)]
