"""A worker of the bank, until it is killed: `python -m tests.money.worker STORE`."""

from __future__ import annotations

import asyncio
import sys

from durable import Worker
from tests.money.bank import app


async def main(store: str) -> None:
    async with Worker(app, store):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
