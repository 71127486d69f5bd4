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

from collections.abc import Mapping
from types import MappingProxyType

import pytest

# So that a failing assertion shows its values. Before the modules are imported.
_MODULES = (
    *(
        "activities",
        "beginnings",
        "clock",
        "commits",
        "concurrency",
        "instances",
        "leases",
        "limits",
        "messages",
        "reads",
    ),
    *("store", "timers", "wakeups"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from durable.testing.conformance.activities import Activities  # noqa: E402
from durable.testing.conformance.beginnings import Beginnings  # noqa: E402
from durable.testing.conformance.clock import HubClocks  # noqa: E402
from durable.testing.conformance.commits import Commits  # noqa: E402
from durable.testing.conformance.concurrency import Concurrency  # noqa: E402
from durable.testing.conformance.instances import Instances  # noqa: E402
from durable.testing.conformance.leases import Leases  # noqa: E402
from durable.testing.conformance.limits import Limits  # noqa: E402
from durable.testing.conformance.messages import Messages  # noqa: E402
from durable.testing.conformance.reads import Reads  # noqa: E402
from durable.testing.conformance.store import Clock, Connect, Promises, Session, Store  # noqa: E402
from durable.testing.conformance.timers import Timers  # noqa: E402
from durable.testing.conformance.wakeups import Wakeups  # noqa: E402

__all__ = ["GROUPS", "Clock", "Conformance", "Connect", "Promises", "Session", "Store"]

GROUPS: Mapping[str, type[Promises]] = MappingProxyType(
    {
        "instances": Instances,
        "beginnings": Beginnings,
        "messages": Messages,
        "commits": Commits,
        "leases": Leases,
        "clock": HubClocks,
        "activities": Activities,
        "timers": Timers,
        "reads": Reads,
        "concurrency": Concurrency,
        "limits": Limits,
        "wakeups": Wakeups,
    }
)
"""The groups of promises by name. An author who has a part working can run the tests of one group alone."""


class Conformance(
    Instances,
    Beginnings,
    Messages,
    Commits,
    Leases,
    HubClocks,
    Activities,
    Timers,
    Reads,
    Concurrency,
    Limits,
    Wakeups,
):
    """All promises. Subclass it under a name that pytest collects, and say how to `connect`."""
