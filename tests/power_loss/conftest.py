"""The stores of these tests are images that are removed as soon as they were looked at."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def replay_of_everything() -> None:
    """Replay nothing after the test: `checking` reads every image by the invariants, while it is there."""
