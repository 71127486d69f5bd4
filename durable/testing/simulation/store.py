"""What one simulated process sees of the store: the provider's calls, each through the gate where faults strike."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from durable.events import InstanceKey
from durable.provider import Lease, Provider, Wakeup
from durable.testing.simulation.loop import Process

CALLS = frozenset(
    {
        "lease",
        "renew",
        "take",
        "release",
        "recover",
        "receive",
        "load",
        "read_history",
        "commit",
        "claim",
        "report",
        "submit",
        "list_instances",
        "count",
        "purge",
        "read_memos",
    }
)
"""All calls of the contract between `open` and `close`, but `mark_slow_turn`, which nobody makes where no thread watches."""


class Gate(Protocol):
    """Where the calls of all processes pass, one number each."""

    async def pass_through(
        self, process: Process, name: str, call: Callable[[], Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> Any:
        """Make the call, with whatever the schedule has for it."""
        ...

    def notify(self, process: Process, callback: Callable[[Wakeup], None], wakeup: Wakeup) -> None:
        """Bring a notification to a process, or lose it."""
        ...


class GatedProvider:
    """A provider whose calls pass a gate. Opening and closing do not: a process does both on its own machine."""

    def __init__(self, inner: Provider, process: Process, gate: Gate) -> None:
        self._inner = inner
        self._process = process
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name not in CALLS:
            return member  # limits, `open`, `close`
        gated = functools.partial(self._call, name, member)
        self.__dict__[name] = gated
        return gated

    async def _call(self, name: str, member: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        call = functools.partial(member, *arguments, **options)
        return await self._gate.pass_through(self._process, name, call, (*arguments, *options.values()))

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """See `durable.provider.Turns.mark_slow_turn`."""
        self._inner.mark_slow_turn(lease, key, run_id)

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        return self._inner.listen(functools.partial(self._gate.notify, self._process, callback))
