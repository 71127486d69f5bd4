"""A bank: accounts are entities, and a transfer locks two of them, so that money is neither made nor lost.

Between the withdrawal and the deposit the money is nowhere; nobody sees that, because both accounts serve this transfer
alone until it is over. It is over whatever happens: the locks go with it when it ends, fails or is terminated, and a crash
is not its end. `tests/samples/test_bank_transfer.py` counts the money under thousands of simulated crashes, and real ones.

    python samples/bank_transfer.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import App, EntityId, EntityOperationFailedError, OrchestrationContext, Worker

app = App()

OPENING_BALANCE = 100


@dataclasses.dataclass
class Transfer:
    giver: str
    taker: str
    amount: int


class InsufficientFundsError(Exception):
    pass


@app.entity
class Account:
    balance: int = OPENING_BALANCE

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def withdraw(self, amount: int) -> int:
        self.balance -= amount
        if self.balance < 0:  # an operation that raises leaves everything as it was
            raise InsufficientFundsError(f"{-self.balance} short")
        return self.balance


@app.orchestrator
async def transfer(ctx: OrchestrationContext, order: Transfer) -> str:
    giver, taker = EntityId(Account, order.giver), EntityId(Account, order.taker)
    async with ctx.lock(giver, taker):
        try:
            await ctx.call_entity(giver, Account.withdraw, order.amount)
        except EntityOperationFailedError as error:
            return f"refused: {error.details.message}"
        await ctx.call_entity(taker, Account.deposit, order.amount)
    return f"{order.amount} from {order.giver} to {order.taker}"


ORDERS = [
    Transfer("Ada", "Bob", 70),
    Transfer("Bob", "Eve", 120),
    Transfer("Eve", "Ada", 20),
    Transfer("Ada", "Eve", 500),
    Transfer("Bob", "Ada", 30),
]


async def main(store: str = "memory://") -> dict[str, int]:
    async with Worker(app, store) as worker:
        handles = [await worker.client.start(transfer, order) for order in ORDERS]
        for handle in handles:
            print(await handle.result(timeout=30))
        accounts = {account.id.key: account.state.balance async for account in worker.client.query_entities(Account)}
    print(accounts, "in all", sum(accounts.values()))
    return accounts


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
