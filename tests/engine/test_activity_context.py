"""The activity's context: what it tells, from any thread, and `current_activity()`."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from durable.activity_context import ActivityContext, current_activity, running_context
from durable.errors import DurableError
from durable.events import ActivityScheduled, InstanceKey
from durable.provider import TaskAddress
from durable.signatures import is_activity_context


@dataclasses.dataclass
class FakePort:
    request: ActivityScheduled
    address: TaskAddress
    idempotency_key: str = "key"
    deadline: datetime | None = None
    last_heartbeat: Any = None
    is_cancelled: bool = False
    client: Any = None
    beats: list[Any] = dataclasses.field(default_factory=list)

    def heartbeat(self, details: Any = None) -> None:
        self.beats.append(details)


@pytest.fixture
def port() -> FakePort:
    request = ActivityScheduled(7, "pay", None, None, attempt=3)
    return FakePort(request, TaskAddress(InstanceKey("instance"), "run", 0, 7))


class ShopContext(ActivityContext):
    """What a feature makes of it."""


def test_it_tells_what_runs_and_for_whom(port: FakePort) -> None:
    context = ActivityContext(port)
    assert (context.instance_id, context.name, context.attempt) == ("instance", "pay", 3)
    assert (context.idempotency_key, context.deadline, context.last_heartbeat) == ("key", None, None)
    port.deadline = datetime(2030, 1, 1, tzinfo=UTC)
    port.last_heartbeat = {"done": 5}
    assert context.deadline == port.deadline
    assert context.last_heartbeat == {"done": 5}
    assert "pay" in repr(context)
    assert "attempt 3" in repr(context)


def test_heartbeats_and_cancellation_pass_through_from_any_thread(port: FakePort) -> None:
    context = ActivityContext(port)
    seen: list[bool] = []

    def work() -> None:
        context.heartbeat()
        context.heartbeat(0)
        seen.append(context.is_cancelled)
        port.is_cancelled = True
        seen.append(context.is_cancelled)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert port.beats == [None, 0]
    assert seen == [False, True]


def test_its_log_records_say_whose_they_are(port: FakePort, caplog: pytest.LogCaptureFixture) -> None:
    ActivityContext(port).logger.warning("slow %s", "card", extra={"order": 5})
    (record,) = caplog.records
    fields = record.__dict__
    assert (record.name, record.getMessage(), record.levelno) == ("durable.activity.pay", "slow card", logging.WARNING)
    assert (fields["instance_id"], fields["run_id"], fields["attempt"], fields["order"]) == ("instance", "run", 3, 5)


def test_the_current_activity_is_that_of_the_task_or_thread(port: FakePort) -> None:
    with pytest.raises(DurableError, match="no activity is running here"):
        current_activity()

    async def activity(number: int) -> int:
        request = dataclasses.replace(port.request, attempt=number)
        running_context.set(ActivityContext(dataclasses.replace(port, request=request)))
        await asyncio.sleep(0)
        return current_activity().attempt

    async def both() -> list[int]:
        return list(await asyncio.gather(activity(1), activity(2)))

    assert asyncio.run(both()) == [1, 2]

    def in_thread() -> str:
        running_context.set(ActivityContext(port))
        return current_activity().name

    assert contextvars.copy_context().run(in_thread) == "pay"
    with pytest.raises(DurableError):
        current_activity()


def test_the_registry_knows_it_and_its_subclasses() -> None:
    assert is_activity_context(ActivityContext)
    assert is_activity_context(ShopContext)
    assert not is_activity_context(object)
