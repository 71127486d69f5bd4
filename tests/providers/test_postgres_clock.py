"""The hub's clock in SQL is the one in `durable.hub_clock`: the same numbers come out of both."""

from __future__ import annotations

import random

import asyncpg
import durable_postgres

from durable.ports import system_ports
from durable.provider import CLOCK_JUMP_US, LEASE_US, Belief, HubClock

SPAN_US = 4 * CLOCK_JUMP_US


async def test_the_clock_in_sql_says_what_the_clock_in_python_says(postgres_url: str) -> None:
    provider = durable_postgres.connect(postgres_url, system_ports())
    await provider.open()
    connection = await asyncpg.connect(postgres_url, server_settings={"search_path": "durable_default"})
    dice = random.Random(5)
    changed = 0
    for _ in range(400):
        before = HubClock(
            dice.randrange(3), dice.choice([0, dice.randint(-SPAN_US, SPAN_US)]), dice.randint(0, SPAN_US)
        )
        store, belief = dice.randint(0, SPAN_US), Belief(dice.randrange(3), dice.randint(0, SPAN_US))
        for name, after in (
            ("begun", before.begun(store)),
            ("renewed", before.renewed(store, belief)),
            ("confirmed", before.confirmed(store)),
        ):
            await connection.execute(
                "UPDATE hub SET clock_number = $1, clock_correction = $2, clock_seen = $3",
                *(before.number, before.correction, before.seen),
            )
            now = await connection.fetchval(
                "SELECT set_clock($1, $2, $3, $4, $5, $6)", name, store, *belief[:2], CLOCK_JUMP_US, LEASE_US
            )
            row = await connection.fetchrow("SELECT clock_number, clock_correction, clock_seen FROM hub")
            assert row is not None
            assert (HubClock(*row), now) == (after, after.time(store)), (name, before, store, belief)
            changed += after.number != before.number
    assert changed > 100
    await connection.close()
    await provider.close()
