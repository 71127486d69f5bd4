"""The memory store keeps the contract."""

from __future__ import annotations

from pathlib import Path

import durable_memory
import pytest

from durable.testing.conformance import Conformance, Connect


class TestMemory(Conformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda ports: durable_memory.connect(f"memory://{tmp_path.name}?message_bytes_max=100000", ports)
