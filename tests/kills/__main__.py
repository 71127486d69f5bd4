"""The long form: `python -m tests.kills --kills 100 --stops 30 [--seed N]`.

With `--store offloaded` nearly everything lies in files beside a SQLite store. With
`--store postgres` the server can be shaken as well: `--restarts 10 --broken 20 --cuts 200`.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.kills.stores import FileStore, server_store
from tests.kills.storm import Outcome, Plan, run_storm
from tests.ledger import Ledger

CUT_CHANCE = 0.03
"""Of each call of a worker that writes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs of workers (default: 100)")
    parser.add_argument(
        "--stops", type=int, default=30, help="workers frozen for longer than their lease (default: 30)"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 32), help="of every choice (default: random)"
    )
    parser.add_argument("--lease", type=float, default=10.0, help="seconds that a lease lasts (default: 10)")
    parser.add_argument("--store", default="sqlite", choices=("sqlite", "offloaded", "postgres"))
    parser.add_argument("--restarts", type=int, default=0, help="crashes of the server, which starts again")
    parser.add_argument("--broken", type=int, default=0, help="times that all connections to the server are killed")
    parser.add_argument("--cuts", type=int, default=0, help="commits whose answer is cut off, at least")
    given = parser.parse_args()
    ledger = Ledger(f"kills on {given.store}", given.seed)
    plan = Plan(
        given.kills, given.stops, given.seed, given.lease, restarts=given.restarts, broken=given.broken, cuts=given.cuts
    )
    with tempfile.TemporaryDirectory(prefix="durable-kills-") as folder:
        outcome = asyncio.run(_run(plan, Path(folder), given.store))
    return ledger.close(
        outcome.violations,
        kills=outcome.kills,
        stops=outcome.stops,
        zombies=outcome.zombies,
        instances=outcome.instances,
        lost=outcome.lost,
        doubled=outcome.doubled,
        deliveries_repeated=outcome.deliveries_repeated,
        unanswered=outcome.unanswered,
        restarts=outcome.restarts,
        broken=outcome.broken,
        cuts=outcome.cuts,
    )


async def _run(plan: Plan, folder: Path, store: str) -> Outcome:
    if store != "postgres":
        return await run_storm(plan, folder, FileStore(folder, is_offloaded=store == "offloaded"))
    async with server_store(cut_chance=CUT_CHANCE if plan.cuts else 0.0, seed=plan.seed) as server:
        return await run_storm(plan, folder, server)


if __name__ == "__main__":
    sys.exit(main())
