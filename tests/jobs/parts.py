"""Small parts that the tests of jobs share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from durable.jobs import JobNode

T = TypeVar("T")

PATIENCE_S = 20.0


async def eventually(look: Callable[[], Awaitable[T]], holds: Callable[[T], Any]) -> T:
    """Look until it holds; return what was seen then."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(seen := await look()):
            await asyncio.sleep(0.005)
    return seen


def statuses(tree: JobNode) -> dict[str, str]:
    """The status of each job by its function, for trees where each function stands once."""
    return {node.function: node.status.value for node in tree.walk()}
