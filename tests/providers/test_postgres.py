"""The PostgreSQL store keeps the contract."""

from __future__ import annotations

import durable_postgres
import pytest

from durable.testing.conformance import Conformance, Connect


class TestPostgres(Conformance):
    @pytest.fixture
    def connect(self, postgres_url: str) -> Connect:
        return lambda ports: durable_postgres.connect(postgres_url, ports, clock=ports.now_us)

    @pytest.fixture
    def connect_to_other_hub(self, postgres_url: str) -> Connect:
        return lambda ports: durable_postgres.connect(f"{postgres_url}?hub=other", ports, clock=ports.now_us)
