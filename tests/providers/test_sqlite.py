"""The SQLite store keeps the contract."""

from __future__ import annotations

from pathlib import Path

import durable_sqlite
import pytest

from durable.testing.conformance import Conformance, Connect


class TestSqlite(Conformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda ports: durable_sqlite.connect(f"sqlite:///{tmp_path}/store.db", ports)

    @pytest.fixture
    def connect_to_other_hub(self, tmp_path: Path) -> Connect:
        return lambda ports: durable_sqlite.connect(f"sqlite:///{tmp_path}/store.db?hub=other", ports)
