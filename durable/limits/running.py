"""What runs the keepers of limits: the edge between the engine and their program."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from durable.app import App
from durable.engine.execution import Execution
from durable.errors import UnknownNameError
from durable.events import InstanceKey
from durable.limits.keeper import Keeper
from durable.orchestrations import Edge, InstanceKind
from durable.payloads import Sealer
from durable.permits import KIND, PROGRAM

logger = logging.getLogger("durable.limits")

VERSION: Final = "1"
"""A change under which the histories of keepers do not replay becomes a second version beside it."""


class _Program(NamedTuple):
    exact_version: str = VERSION


class KeeperRunner(Edge):
    """Makes the executions of keepers, and is the ports through which they reach the edge."""

    def __init__(self, sealer: Sealer, *, strict: bool) -> None:
        super().__init__(sealer, strict=strict, logger=logger)

    def new_execution(self, key: InstanceKey, run_id: str, generation: int) -> Execution:
        """Return an execution of a keeper, to be fed with the records of that generation."""
        return Execution(key, run_id, generation, self._begin, self)

    def encode_result(self, value: Any) -> bytes:
        """Encode a result. Nothing ends a keeper's program by itself, so there is none."""
        raise AssertionError(f"a keeper's program has ended, with {value!r}")

    def _begin(self, execution: Execution) -> Coroutine[Any, Any, None]:
        started = execution.started
        assert started is not None, "a program begins when its instance has started"
        return Keeper(execution, None if started.input is None else self._sealer.unseal(started.input)).serve()


def _find(_: App, name: str, version: str | None) -> _Program:
    if name != PROGRAM or version not in (None, VERSION):
        raise UnknownNameError(f"this version of the package runs no '{name}' in version {version}")
    return _Program()


def _runner(_: App, __: _Program, sealer: Sealer, strict: bool) -> KeeperRunner:
    return KeeperRunner(sealer, strict=strict)


LIMITS: Final = InstanceKind(KIND, _find, _runner, built_in=(PROGRAM, VERSION))
