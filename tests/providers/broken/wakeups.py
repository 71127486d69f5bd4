"""Ways to break the promises about wake-ups."""

from __future__ import annotations

from typing import Any

import durable.listeners
from durable.listeners import Listener
from tests.providers.broken.variants import PROVIDER, Catalogue, swap, text

CATALOGUE = Catalogue("wakeups")
hub, provider = CATALOGUE.hub, CATALOGUE.provider

hub("nobody is told", "tell", "listener.tell(wakeup)", "pass")
hub("only one is told", "tell", "tuple(self.listeners)", "tuple(self.listeners)[:1]")
hub("messages of a submit are not told", "submit", "self.tell(wakeup.told())", "pass")
hub("messages of a commit are not told", "commit", "self.tell(wakeup.told())", "pass")
hub("outcomes are not told", "report", "self.tell(wakeup.told())", "pass")
hub(
    "a message is told without its sequence",
    "_store",
    "wakeup.messages.append(stored)",
    "wakeup.messages.append(dataclasses.replace(stored, sequence=0))",
)
hub(
    "messages that were refused are told",
    "_deliver",
    "if verdict is Verdict.STORED:",
    "if verdict is not Verdict.STORED:\n        wakeup.messages.append(StoredMessage(0, message.target, message.partition, message.data))\n    if verdict is Verdict.STORED:",
)
hub("a start's row is not told", "_store", "wakeup.rows.append(message.start)", "pass")
hub("rows of a commit are not told", "commit", "Changes(rows,", "Changes([],")
hub(
    "a row is told as it was before",
    "commit",
    "rows = [self._apply(step) for step in steps]",
    "rows = [self._instances[step.key] for step in steps]\n    [self._apply(step) for step in steps]",
)
hub(
    "the run that takes a place is not told",
    "commit",
    "rows += [step.replaced_by for step in steps if step.replaced_by is not None]",
    "pass",
)
hub(
    "the run that gives its place is not told",
    "commit",
    "rows += [step.replaced_by for step in steps if step.replaced_by is not None]",
    "rows = [step.replaced_by or row for step, row in zip(steps, rows)]",
)
hub("memos are not told", "commit", "wakeup.memos.append(memo)", "pass")
hub("attempts are not told", "commit", "activities=any(step.queue_adds for step in steps)", "activities=False")
hub(
    "what fails is told",
    "commit",
    "refused: dict[int, str] = {}\n",
    "refused: dict[int, str] = {}\n    self.tell(Wakeup(tuple(StoredMessage(0, m.target, m.partition, m.data) for m in batch.messages)))\n",
)
hub("a release is not told", "release", "self.tell(Wakeup(anything=True, leases=row.is_worker))", "pass")
hub("who gives partitions up is not told as a worker", "release", "leases=row.is_worker", "leases=False")
provider("a worker that comes is not told", "lease", "leases=True", "leases=False")
provider("a worker that announces something else is not told", "renew", "leases=True", "leases=False")
provider("who has closed the store is told on", "close", "hub.listeners.pop(listener, None)", "pass")
CATALOGUE.add("who has stopped listening is told on", text(PROVIDER, "listen", "listener.end()", "return"))


def _tell_at_once(self: Any, wakeup: Any) -> None:
    self._callback(wakeup)


CATALOGUE.add("the wake-up comes before the answer", swap(Listener, "tell", _tell_at_once))


def _last_of(wakeups: list[Any]) -> Any:
    return wakeups[-1]


CATALOGUE.add("of several wake-ups the last is told", swap(durable.listeners, "joined", _last_of))
