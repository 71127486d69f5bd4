"""What all tests share: the stores, workers with and without the cache, and async tests without a plugin.

With `DURABLE_TEST_CACHE=0` every Worker that does not choose otherwise keeps no instance in memory and replays each turn from
the start, and with `DURABLE_TEST_CACHE=mixed` (`make test`) in one half of the tests. Nothing may behave differently.
`DURABLE_TEST_STORES=sqlite` leaves the tests of the other engines out. Without it a test that takes a store runs on memory and
SQLite, and where much depends on the engine (`ON_EVERY_STORE`) on PostgreSQL; `make test-postgres` runs them all there.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import os
import shutil
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import durable_memory.provider
import pytest

from tests import replays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable.ports import Ports
    from tests.postgres_server import PostgresServer

STORES = tuple(filter(None, os.environ.get("DURABLE_TEST_STORES", "").split(",")))
ON_EVERY_STORE = (
    "test_handover.py",
    "test_must_show.py",
    "test_samples.py",
    "test_succession.py",
    "test_with_worker.py",
)
"""A test on a server takes twice as long as on a file: the others meet the server through the conformance suite."""

CACHE = os.environ.get("DURABLE_TEST_CACHE", "1")
"""1: workers cache their instances. 0: none does. mixed: in one half of the tests they do, see `is_cached`."""

IS_CROSSED = os.environ.get("DURABLE_TEST_CROSSED", "1") != "0"
"""Whether a test of both styles and both embedded stores runs in every combination of them.

`make test` leaves half of the combinations out: of each test both styles run, one on a file and the other in memory, the one
cached and the other not (and on a server, if at all, the one that runs on a file). Which is which goes by the test's name, so
that over all tests every combination is met hundreds of times. `make test-crossed` and a plain `pytest` run them all.
"""

STYLES = ("async", "generator")

Combination: TypeAlias = "tuple[str, tuple[str, ...], str | None, Any]"


FILES_IN_MEMORY = "/dev/shm"
FREE_BYTES_MIN = 1 << 30
"""Containers may have a tiny one."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep `tmp_path` in memory where the system offers that, unless somebody has chosen a place.

    A new database is synced a dozen times before the first test of it begins: on a disk that is most of the suite's time,
    and no test here is about the disk. Those that are (the tests of size, the long batteries) name their own place.
    """
    chosen = os.environ.get("PYTEST_DEBUG_TEMPROOT") or os.environ.get("TMPDIR") or config.option.basetemp
    if not chosen and os.access(FILES_IN_MEMORY, os.W_OK) and shutil.disk_usage(FILES_IN_MEMORY).free > FREE_BYTES_MIN:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = FILES_IN_MEMORY


def pytest_report_header() -> str:
    modes = {"0": "replay every turn from the start", "mixed": "cache their instances, in one half of the tests"}
    return f"durable: workers {modes.get(CACHE, 'cache their instances')}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def test_…` on a fresh event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def is_cached(item: pytest.Item) -> bool:
    """Tell whether the workers of a test cache their instances.

    In a mixed run half of them do not: of a test on both embedded stores one half, else of one in both styles, else of all
    tests. Which half goes by the test's name.
    """
    if CACHE != "mixed" or item.get_closest_marker("own_processes") or item.get_closest_marker("size"):
        return CACHE != "0"
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    store, style = parameters.get("store_url"), parameters.get("style")
    if store in ("memory", "sqlite"):
        return (_number_of(item) & 2 == 0) is (store == "sqlite")
    if style in STYLES:
        return (_number_of(item) & 2 == 0) is (style == STYLES[0])
    return zlib.crc32(item.name.encode()) % 2 == 0


def _number_of(item: pytest.Item) -> int:
    """Return a number that depends on a test's name alone, not on its parameters."""
    return zlib.crc32(f"{item.path.name}::{getattr(item, 'originalname', '')}".encode())


@pytest.fixture(autouse=True)
def worker_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the default of `max_cached_orchestrations` off for the whole test where the run asks for it.

    Changing the default itself reaches every Worker in this process, also those that samples build.
    """
    if not is_cached(request.node):
        from durable import Worker  # here, so that tests of the lower layers run without the upper ones

        defaults: dict[str, Any] = Worker.__init__.__kwdefaults__  # type: ignore[assignment]
        assert "max_cached_orchestrations" in defaults, "the uncached run would silently be a cached one"
        monkeypatch.setitem(defaults, "max_cached_orchestrations", 0)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Fail a test that leaves the log of the package changed: what comes after it in this process would hear less, or more."""
    before = _changed_loggers()
    yield
    assert _changed_loggers() == before, "a test gives the loggers back as it found them"


def _changed_loggers() -> dict[str, tuple[int, bool, bool, list[logging.Handler]]]:
    """Return those loggers of the package that are not as a new one is."""
    found = {
        name: (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
        for name, logger in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] == "durable" and isinstance(logger, logging.Logger)
    }
    return {name: state for name, state in found.items() if state != (logging.NOTSET, True, False, [])}


@pytest.fixture(autouse=True)
def replay_of_everything(
    request: pytest.FixtureRequest, worker_cache: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Replay each history of the test from every prefix, see `tests/replays.py`; the test's monkeypatches still hold.

    So does its `tmp_path`. In a run without the cache it is left out: workers have replayed then all the time.

    A test that makes code and history differ, or damages a history, says so: `@pytest.mark.diverges("why")`.
    """
    if CACHE == "0":
        yield
        return
    used = replays.UsedStores()
    used.watch(monkeypatch)
    yield
    replays.check(used, request.node.get_closest_marker("diverges"))


def pytest_collection_finish() -> None:
    """Leave what is there before the first test to itself: hundreds of modules, through which `gc.collect()` need not look.

    The tests that count what is left over call it some thousand times, for a third of a second each.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    met = {_combination_of(item) for item in items}
    left_out = {item for item in items if not _runs_on(item, _store_of(item)) or _is_left_to_others(item, met)}
    if CACHE == "0":
        left_out |= {item for item in items if item.get_closest_marker("own_processes")}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _runs_on(item: pytest.Item, store: str | None) -> bool:
    if store is None or STORES:
        return store is None or store in STORES
    return store != "postgres" or item.path.name in ON_EVERY_STORE


def _is_left_to_others(item: pytest.Item, met: set[Combination]) -> bool:
    """Tell whether a combination of style and store is one that `make test` leaves out: the style is met on another one."""
    test, rest, store, style = _combination_of(item)
    other = {"memory": "sqlite", "sqlite": "memory", "postgres": "memory"}.get(store or "")
    if IS_CROSSED or style not in STYLES or other is None or (test, rest, other, style) not in met:
        return False
    is_of_the_file = style == STYLES[_number_of(item) % 2]
    return is_of_the_file is (store == "memory")


def _combination_of(item: pytest.Item) -> Combination:
    """Return which test it is, with which parameters besides store and style, and these two."""
    call = getattr(item, "callspec", None)
    if call is None:
        return item.nodeid, (), None, None
    store, style = _store_of(item), call.params.get("style")
    rest = tuple(sorted(word for word in call.id.split("-") if word not in (store, style)))
    return f"{item.path}::{getattr(item, 'originalname', '')}", rest, store, style


def _store_of(item: pytest.Item) -> str | None:
    return (
        item.callspec.params.get("store_url")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole run of this process; it keeps nothing, see `tests/postgres_server.py`."""
    from tests.postgres_server import PostgresServer, folder_in_memory  # here: few tests need the driver

    server = PostgresServer(folder_in_memory())
    server.start()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres_server.empty_database()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store, once of each engine. Workers and clients of the test share it."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        from durable import stores

        monkeypatch.setattr(stores, "_engine", functools.partial(_engine_with_clock, stores._engine))
        return url
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(autouse=True)
def memory_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test have stores in memory of its own, and let go of them: they live as long as the process."""
    monkeypatch.setattr(durable_memory.provider, "_shared", {})


def _engine_with_clock(engine: Callable[[str], Any], scheme: str) -> Any:
    """Let a server's time be that of the ports, where a test has its own; else it is the server's own."""
    import durable_postgres

    from durable.ports import wall_clock_us

    def connect(url: str, ports: Ports) -> Any:
        return durable_postgres.connect(url, ports, clock=None if ports.now_us is wall_clock_us else ports.now_us)

    return connect if scheme == "postgresql" else engine(scheme)
