"""A bank with a mistake: its transfers do not lock the accounts."""

from __future__ import annotations

from durable import App, Client, EntityId, EntityOperationFailedError, OrchestrationContext
from samples.bank_transfer import Account, Transfer
from tests.money.bank import audit, draw_orders, violations_of

careless = App()
careless.entity(Account)
careless.orchestrator(audit)


@careless.orchestrator(name="careless transfer")
async def careless_transfer(ctx: OrchestrationContext, order: Transfer) -> str:
    try:
        await ctx.call_entity(EntityId(Account, order.giver), Account.withdraw, order.amount)
    except EntityOperationFailedError:
        return "refused"
    await ctx.call_entity(EntityId(Account, order.taker), Account.deposit, order.amount)
    return "done"


async def careless_scenario(client: Client) -> None:
    owners = ["Ada", "Bob", "Eve"]
    orders = draw_orders(owners, 6, seed=5)
    transfers, audits = [], []
    for number, order in enumerate(orders):
        transfers.append(await client.start(careless_transfer, order))
        if number % 3 == 1:
            audits.append(await client.start(audit, owners))
    found = await violations_of(client, owners, orders, transfers, audits)
    assert not found, "; ".join(found)
