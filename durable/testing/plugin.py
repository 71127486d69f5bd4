"""The pytest plugin: the fixture `durable_env`. pytest finds it by itself; `durable.testing` does not import it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pytest

from durable.app import App
from durable.injection import Dependencies
from durable.testing.environment import Environment


class EnvironmentFactory(Protocol):
    """What the fixture `durable_env` is."""

    def __call__(
        self,
        app: App,
        *,
        start: datetime | None = None,
        seed: int = 0,
        dependencies: Dependencies | None = None,
    ) -> Environment:
        """Return a fresh environment, see `durable.testing.Environment`."""
        ...


@pytest.fixture
def durable_env() -> EnvironmentFactory:
    """Make environments: `async with durable_env(app) as env:`, or `durable_env(app).run(test)` in a plain test."""
    return Environment
