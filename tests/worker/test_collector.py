"""A process that only serves lets Python look for garbage less often; one that does other things as well is left alone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

import pytest

from durable import App, Worker
from durable.worker.worker import RARE_COLLECTIONS


@pytest.mark.parametrize("chosen", [(700, 10, 10), (50_000, 10, 10), (0, 10, 10)])
async def test_the_collector_comes_less_often_while_a_worker_runs_unless_the_program_has_chosen(
    chosen: tuple[int, int, int],
) -> None:
    before = gc.get_threshold()
    gc.set_threshold(*chosen)
    try:
        worker = Worker(App(), "memory://")
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            while not worker.footprint:
                await asyncio.sleep(0.01)
        assert gc.get_threshold() == (RARE_COLLECTIONS if chosen[0] == 700 else chosen)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        assert gc.get_threshold() == chosen
    finally:
        gc.set_threshold(*before)
