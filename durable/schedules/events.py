"""What a schedule adds to histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from durable import events as ev
from durable.events import InstanceKey
from durable.outgoing import Outgoing, Sender, register_messages
from durable.records import register_event


@dataclasses.dataclass(frozen=True, slots=True)
class OccurrenceToldToEnd(ev.Request):
    """What was started for an earlier time is to end, since it is time for the next one. `is_forced`: by termination."""

    instance_id: str
    run_id: str
    is_forced: bool

    code: ClassVar[int] = 161

    @property
    def shape(self) -> tuple[Any, ...]:
        """Which run, and how."""
        return ("OccurrenceToldToEnd", self.instance_id, self.run_id, self.is_forced)


def _messages(event: OccurrenceToldToEnd, sender: Sender) -> Iterator[Outgoing]:
    reason = f"schedule '{sender.key.id}' has come to its next time"
    told: ev.HistoryEvent
    if event.is_forced:
        told = ev.OrchestrationTerminated(reason)
    else:
        told = ev.OrchestrationCancelRequested(reason)
    yield Outgoing(InstanceKey(event.instance_id), told, run_id=event.run_id, is_control=True)


register_event(OccurrenceToldToEnd)
register_messages(OccurrenceToldToEnd, _messages)
