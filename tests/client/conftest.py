"""A store with an owner played by hand, and a client of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from durable.client import Client
from tests.client.owner import Owner, owner_of
from tests.client.programs import app

Stage = Callable[[], AbstractAsyncContextManager[tuple[Client, Owner]]]


@pytest.fixture
def stage(store_url: str) -> Stage:
    """Open a client, and an owner who does only what the test says."""

    @contextlib.asynccontextmanager
    async def open_both(**options: Any) -> AsyncIterator[tuple[Client, Owner]]:
        async with owner_of(store_url) as owner, Client(store_url, app, **options) as client:
            yield client, owner

    return open_both
