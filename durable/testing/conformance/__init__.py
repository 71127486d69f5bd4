"""The storage contract as tests: every promise of `durable/provider.py` that a provider must keep.

The test file of a provider is one class. It says how to connect to an empty store of its own; everything else is here:

    class TestMyStore(Conformance):
        @pytest.fixture
        def connect(self, tmp_path: Path) -> Connect:
            return lambda ports: my_store.connect(f"mystore:///{tmp_path}/store", ports)

`connect` is called for each provider object that a test wants; all of one test share one store. A store that keeps its own
time (and does not ask `ports.now_us`) says `has_clock_of_ports = False`: tests that turn the clock are then skipped. Tests
are coroutines and need no plugin. Needs the `testing` extra.
"""

from __future__ import annotations

import pytest

# So that a failing assertion shows its values. Before the modules are imported.
_GROUPS = ("activities", "commits", "history", "leases", "limits", "listings", "messages", "receiving", "wakeups")
pytest.register_assert_rewrite(*(f"{__name__}.{group}" for group in _GROUPS))

from durable.testing.conformance.activities import Activities  # noqa: E402
from durable.testing.conformance.commits import Commits  # noqa: E402
from durable.testing.conformance.history import History  # noqa: E402
from durable.testing.conformance.leases import Leases  # noqa: E402
from durable.testing.conformance.limits import Limits  # noqa: E402
from durable.testing.conformance.listings import Listings  # noqa: E402
from durable.testing.conformance.messages import Messages  # noqa: E402
from durable.testing.conformance.receiving import Receiving  # noqa: E402
from durable.testing.conformance.store import Clock, Connect, Session, Store  # noqa: E402
from durable.testing.conformance.wakeups import Wakeups  # noqa: E402

__all__ = ["Clock", "Conformance", "Connect", "Session", "Store"]


class Conformance(Leases, Messages, Receiving, Commits, History, Activities, Listings, Limits, Wakeups):
    """All promises. Subclass it under a name that pytest collects, and say how to `connect`."""
