"""From a URL to a provider."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from durable.client import Client
from durable.errors import StoreError
from durable.ports import system_ports
from durable.stores import connect


def test_a_scheme_finds_its_engine() -> None:
    assert type(connect("memory://", system_ports())).__module__.startswith("durable_memory")


def test_a_provider_is_handed_through() -> None:
    provider = connect("memory://", system_ports())
    assert connect(provider, system_ports()) is provider


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:secret@host/1", r"redis://.*known: .*memory://.*sqlite://.*durable\.providers"),
        ("mysql://u:secret@host/db", r"mysql://.*known: .*sqlite://"),
        ("hello.db", "sqlite:///"),
        ("", "sqlite:///"),
        ("://x", "sqlite:///"),
    ],
)
def test_what_is_no_store_is_named_with_a_remedy(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_an_engine_whose_driver_is_not_installed_says_what_to_install(scheme: str) -> None:
    program = (
        "import sys; sys.modules['asyncpg'] = None\n"
        f"import durable\ntry: durable.Client('{scheme}://u:secret@host/db')\nexcept durable.StoreError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "pip install 'durable-orchestration[postgres]'" in said
    assert "secret" not in said


@pytest.mark.parametrize("store", [None, 5, object(), b"memory://"])
def test_what_is_no_url_and_no_provider_is_a_type_error(store: Any) -> None:
    with pytest.raises(TypeError):
        Client(store)


async def test_a_private_memory_store_is_private_and_a_named_one_shared() -> None:
    async with Client("memory://") as one, Client("memory://") as two:
        await one.start("x")
        assert (await one.count(), await two.count()) == (1, 0)
    async with Client("memory://test-stores") as one, Client("memory://test-stores") as two:
        await one.start("x")
        assert (await one.count(), await two.count()) == (1, 1)


async def test_hubs_are_apart() -> None:
    async with Client("memory://hubs?hub=a") as one, Client("memory://hubs?hub=b") as two:
        await one.start("x", instance_id="i")
        await two.start("y", instance_id="i")
        assert [state.name async for state in one.query()] == ["x"]
        assert [state.name async for state in two.query()] == ["y"]
