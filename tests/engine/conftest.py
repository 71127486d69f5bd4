"""The fixture that every test of the engine drives its instances with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.harness import Play


@pytest.fixture
def play() -> Iterator[Callable[..., Play]]:
    """Make `Play`s; each is replayed from every prefix when the test is over."""
    made: list[Play] = []

    def make(*args: Any, **options: Any) -> Play:
        made.append(Play(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.check_replays()
        one.execution.close()
