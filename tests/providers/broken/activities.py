"""Ways to break the promises about activities."""

from __future__ import annotations

from tests.providers.broken.variants import MODULE, Catalogue, text

CATALOGUE = Catalogue("activities")
hub = CATALOGUE.hub

# ---- who claims what

hub(
    "an attempt is claimed by two",
    "claim",
    "(not self._is_live(entry.claimer) or is_unknown(entry, lease, held))",
    "True",
)
hub(
    "what the dead had claimed stays claimed",
    "claim",
    "not self._is_live(entry.claimer) or",
    "entry.claimer is None or",
)
hub(
    "what the expired had claimed stays claimed",
    "claim",
    "not self._is_live(entry.claimer) or",
    "entry.claimer not in self._leases or",
)
hub("an expired lease claims", "claim", "if not self._is_live(lease.lease_id):", "if False:")
hub("low priorities go last", "claim", "entry.row.priority, entry.age)", "-entry.row.priority, entry.age)")
hub("priorities are passed over", "claim", "entry.row.priority, entry.age)", "entry.age)")
hub("the newest goes first", "claim", "entry.row.priority, entry.age)", "entry.row.priority, -entry.age)")
hub("names are passed over", "claim", "(served is None or (entry.row.name, entry.row.version) in served)", "True")
hub(
    "versions are passed over",
    "claim",
    "(entry.row.name, entry.row.version) in served",
    "entry.row.name in {name for name, _ in served}",
)
hub("nothing served is everything", "claim", "served is None or", "not served or")
hub("queues are passed over", "claim", "entry.row.queue in queues\n", "True\n")
hub("queues are told apart without case", "claim", "entry.row.queue in queues\n", "entry.row.queue.lower() in queues\n")
hub("an attempt does not wait for its time", "claim", "and entry.row.visible_at <= now\n", "\n")
hub("an attempt waits for ever", "claim", "entry.row.visible_at <= now", "entry.row.visible_at == 0")
CATALOGUE.add(
    "nobody hears of what nobody began in time",
    text(
        MODULE, "is_expired", "row.start_by is not None and row.start_by <= now and row.first_claimed_at == 0", "False"
    ),
)
CATALOGUE.add(
    "what was begun counts as not begun in time",
    text(MODULE, "is_expired", " and row.first_claimed_at == 0", ""),
)
CATALOGUE.add(
    "what can still be begun counts as late",
    text(MODULE, "is_expired", "row.start_by <= now", "row.start_by <= now + 1"),
)
hub(
    "what nobody began in time does not come first",
    "claim",
    "key=lambda entry: (not is_expired(entry.row, now), ",
    "key=lambda entry: (",
)
hub(
    "more is claimed than was asked for",
    "claim",
    "return [entry.row for entry in free[:limit]]",
    "return [entry.row for entry in free]",
)
hub(
    "late ones come beyond the limit",
    "claim",
    "    for entry in free[:limit]:",
    "    limit += sum(is_expired(entry.row, now) for entry in free)\n    for entry in free[:limit]:",
)
hub("a delivery is not counted", "claim", "deliveries=entry.row.deliveries + 1", "deliveries=1")
hub("the first claim moves", "claim", "entry.row.first_claimed_at or now", "now")
hub("a claim loses the heartbeat", "claim", "first_claimed_at=first)", "first_claimed_at=first, heartbeat=None)")
hub("a lost lease claims", "claim", "self._row_of(lease)", "pass")
hub("a claim without an answer is never made up for", "claim", " or is_unknown(entry, lease, held)", "")
CATALOGUE.add(
    "what is held is claimed once more",
    text(MODULE, "is_unknown", " and entry.row.task not in held", ""),
)
CATALOGUE.add(
    "what another has claimed is taken for lost",
    text(MODULE, "is_unknown", "entry.claimer == lease.lease_id and ", ""),
)
hub(
    "partitions that are released free what was claimed",
    "release",
    "self._disown(lease.lease_id, partitions)",
    "self._disown(lease.lease_id, partitions)\n    for entry in self._queue.values():\n        entry.claimer = None",
)

# ---- reports

hub("a reported attempt stays", "report", "del self._queue[report.task]", "pass")
hub("a report's message is lost", "report", "self._deliver(report.message, bytes_max, wakeup)", "pass")
hub(
    "a report's message is not held to what it expects",
    "report",
    "self._deliver(report.message, bytes_max, wakeup)",
    "self._store(report.message, None, wakeup)",
)
hub(
    "the outcome of what is gone is delivered",
    "report",
    "elif entry is not None:\n            del self._queue[report.task]\n",
    "else:\n            self._queue.pop(report.task, None)\n",
)
hub(
    "only the claimer may report",
    "report",
    "entry = self._queue.get(report.task)",
    "entry = self._queue.get(report.task)\n        if entry is not None and entry.claimer != lease.lease_id:\n            entry = None",
)
hub(
    "only what was claimed may be reported",
    "report",
    "entry = self._queue.get(report.task)",
    "entry = self._queue.get(report.task)\n        if entry is not None and entry.claimer is None:\n            entry = None",
)
hub("a lost lease may not report", "report", "wakeup = Changes([])", "self._row_of(lease)\n    wakeup = Changes([])")
hub(
    "a task's number is not compared",
    "report",
    "entry = self._queue.get(report.task)",
    "entry = next((found for task, found in self._queue.items() if task[:3] == report.task[:3]), None)\n        report = report if entry is None else report._replace(task=entry.row.task)",
)
hub(
    "a task's run is not compared",
    "report",
    "entry = self._queue.get(report.task)",
    "entry = next((found for task, found in self._queue.items() if task._replace(run_id='') == report.task._replace(run_id='')), None)\n        report = report if entry is None else report._replace(task=entry.row.task)",
)
hub(
    "a task's generation is not compared",
    "report",
    "entry = self._queue.get(report.task)",
    "entry = next((found for task, found in self._queue.items() if task._replace(generation=0) == report.task._replace(generation=0)), None)\n        report = report if entry is None else report._replace(task=entry.row.task)",
)
hub(
    "an outcome that is refused is lost",
    "report",
    "refusal = None if entry is None else refusal_of_all(report.message, bytes_max)",
    "refusal = None",
)
hub("an outcome that is refused is not logged", "report", "logger.error(", "logger.debug(")
hub(
    "an attempt whose outcome was refused is free at once",
    "report",
    "visible_at=self._now_us() + LEASE_US",
    "visible_at=0",
)
hub("an attempt whose outcome was refused is never free", "report", "entry.claimer = None", "pass")
hub(
    "what stands in for a refused outcome is not delivered",
    "report",
    "refusal_of_all(report.message, bytes_max)",
    "refusal_of_message(report.message, bytes_max)",
)

# ---- heartbeats

hub("heartbeats are not kept", "report", "entry.row = dataclasses.replace(entry.row, heartbeat=beat.details)", "pass")
hub("a sign of life empties the heartbeat", "report", " and is_ours and beat.details is not None", " and is_ours")
hub("the first heartbeat stays", "report", "heartbeat=beat.details)", "heartbeat=entry.row.heartbeat or beat.details)")
hub("anybody may beat", "report", "entry is not None and entry.claimer == lease.lease_id", "entry is not None")
hub("whoever beats is told to go on", "report", "answers.append(is_ours)", "answers.append(True)")
hub(
    "beats come before reports",
    "report",
    "    self.tell(wakeup.told())\n    return answers",
    "    self.tell(wakeup.told())\n    return answers[: len(reports)] + [True] * len(beats) if reports else answers",
)
hub(
    "an attempt that is added again keeps its count",
    "_apply",
    "self._queue[activity.task] = QueueEntry(activity, self._next_number())",
    "gone = self.__dict__.setdefault('gone', {})\n        self._queue[activity.task] = gone.setdefault(activity.task, QueueEntry(activity, self._next_number()))",
)
