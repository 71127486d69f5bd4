"""Ways to break the promises about commits."""

from __future__ import annotations

from tests.providers.broken.variants import HUB, MODULE, Catalogue, swap, text

CATALOGUE = Catalogue("commits")
hub = CATALOGUE.hub

# ---- the fence

hub(
    "what was there before is not checked",
    "_check_step",
    "if (row.generation, row.records) != step.before:",
    "if False:",
)
hub(
    "the generation is not checked",
    "_check_step",
    "(row.generation, row.records) != step.before",
    "row.records != step.before[1]",
)
hub(
    "the records are not checked",
    "_check_step",
    "(row.generation, row.records) != step.before",
    "row.generation != step.before[0]",
)
hub("the run is not checked", "_check_step", " or row.run_id != step.run_id", "")
hub("what has ended is written on", "_check_step", " or row.status.is_finished", "")
hub(
    "steps are written one by one",
    "commit",
    "self._check_step(lease, step)",
    "self._check_step(lease, step)\n        if index + 1 < len(batch.steps):\n            self._apply(step)",
)
hub(
    "messages leave before the check",
    "commit",
    "refused: dict[int, str] = {}\n",
    "refused: dict[int, str] = {}\n    for message in batch.messages:\n        self._deliver(message, bytes_max, Changes([]))\n",
)
hub(
    "the number goes before the fence",
    "commit",
    "row = self._row_of(lease)",
    "row = self._leases[lease.lease_id]\n    if batch.number != row.commit_number:\n        self._row_of(lease)",
)
CATALOGUE.add(
    "unknown columns are passed over",
    text(HUB, "_check_step", "if unknown:", "if False:"),
    text(
        HUB,
        "_apply",
        "dict(step.changes)",
        "{name: step.changes[name] for name in step.changes if name in CHANGEABLE_COLUMNS}",
    ),
)
hub(
    "a run's id can be changed",
    "_check_step",
    "unknown = set(step.changes) - CHANGEABLE_COLUMNS",
    "unknown = set(step.changes) - CHANGEABLE_COLUMNS - {'run_id'}",
)

# ---- the number

hub(
    "a commit is not remembered",
    "commit",
    "row.commit_answer is not None and batch.number == row.commit_number",
    "False",
)
CATALOGUE.add("an older commit is written again", swap(MODULE, "check_number", lambda *given: None))
hub(
    "a refused commit uses up its number",
    "commit",
    "refused: dict[int, str] = {}\n",
    "refused: dict[int, str] = {}\n    row.commit_number = batch.number\n",
)
hub(
    "the time of a repeated answer is another",
    "commit",
    "return row.commit_answer\n    check",
    "return dataclasses.replace(row.commit_answer, now=self._now_us())\n    check",
)
hub(
    "all leases share a count",
    "commit",
    'check_number("batch", batch.number, row.commit_number)',
    'check_number("batch", batch.number, max(other.commit_number for other in self._leases.values()))',
)
hub("the answer to a commit has no deliveries", "commit", "Committed(deliveries,", "Committed([],")

# ---- what a step writes

hub("further columns are not written", "_apply", "progress | marks | dict(step.changes)", "progress | marks")
hub(
    "a column cannot be emptied",
    "_apply",
    "dict(step.changes)",
    "{name: value for name, value in step.changes.items() if value is not None}",
)
hub(
    "due times are not written",
    "_apply",
    "for name in PROGRESS_COLUMNS}",
    "for name in PROGRESS_COLUMNS if name != 'due_at'}",
)
hub(
    "the checksum's head is not written",
    "_apply",
    "for name in PROGRESS_COLUMNS}",
    "for name in PROGRESS_COLUMNS if name != 'chain'}",
)
hub(
    "the owner's state is not written",
    "_apply",
    "for name in PROGRESS_COLUMNS}",
    "for name in PROGRESS_COLUMNS if name != 'state'}",
)
hub("records are not written", "_apply", "[record.index] = record", "")
hub(
    "records go to the current generation",
    "_apply",
    "setdefault((step.run_id, generation), {})",
    "setdefault((step.run_id, step.progress.generation), {})",
)
hub(
    "records go by their instance",
    "_apply",
    "self._records.setdefault((step.run_id, generation), {})",
    "self._records.setdefault((step.run_id[:3], generation), {})",
)
hub("older generations stay", "_drop_history", "del self._records[found]", "pass")
hub("one generation too few is dropped", "_drop_history", "key[1] < below", "key[1] < below - 1")
hub("one generation too many is dropped", "_drop_history", "key[1] < below", "key[1] <= below")
hub("generations of all runs are dropped", "_drop_history", "key[0] == run_id and ", "")

# ---- idle instances that go with their step

hub("an idle instance stays", "_remove_idle", "gone = keys - ", "gone = set() and keys - ")
hub("one that somebody has written to goes", "_remove_idle", "if keys else keys", "if False else keys")
hub(
    "one goes before its delayed message is due",
    "_remove_idle",
    "for message in self._inbox.values()}",
    "for message in self._inbox.values() if message.visible_at <= self._now_us()}",
)
hub(
    "one goes before its parked messages are read",
    "_remove_idle",
    "for message in self._inbox.values()}",
    "for message in self._inbox.values() if self._parked_until(message.target) <= self._now_us()}",
)
hub(
    "any message keeps all of them",
    "_remove_idle",
    "gone = keys - {message.target for message in self._inbox.values()} if keys else keys",
    "gone = set() if self._inbox else keys",
)
hub("every instance of a commit goes", "commit", " if step.removes_if_idle}", "}")
hub("the ended runs of one that goes stay", "_remove_idle", "[*former, ", "[")
hub(
    "the messages that their own step consumes hold them",
    "commit",
    "rows = [self._apply(step) for step in steps]",
    "held = {message.target for message in self._inbox.values()}\n"
    "    rows = [self._apply(step) for step in steps]\n"
    "    steps = [dataclasses.replace(step, removes_if_idle=step.removes_if_idle and step.key not in held) for step in steps]",
)
hub(
    "the messages of the same commit hold them",
    "commit",
    "gone = self._remove_idle(",
    "[self._deliver(message, bytes_max, Changes([])) for message in batch.messages]\n    gone = self._remove_idle(",
)

# ---- messages and memos

hub(
    "messages are delivered before the steps",
    "commit",
    "rows = [self._apply(step) for step in steps]",
    "early = [self._judge(message, self._instances.get(message.target)) for message in batch.messages]\n    rows = [self._apply(step) for step in steps]\n    judge = self._judge\n    self._judge = lambda message, row: early[batch.messages.index(message)] if message in batch.messages else judge(message, row)",
)
hub(
    "messages of a commit are lost",
    "commit",
    "else self._deliver(message, bytes_max, wakeup)",
    "else Delivery(Verdict.STORED, self._next_number())",
)
hub(
    "nothing is stored in place of a commit's message",
    "commit",
    "else self._deliver(message, bytes_max, wakeup)",
    "else self._deliver(dataclasses.replace(message, otherwise=None), bytes_max, wakeup)",
)
hub(
    "memos are written before messages",
    "commit",
    "unsent_messages = {",
    "[self._memos.__setitem__(memo.key, memo) for memo in batch.memos]\n    batch = dataclasses.replace(batch, memos=())\n    unsent_messages = {",
)
hub(
    "a memo is not replaced",
    "commit",
    "self._memos[memo.key] = memo",
    "self._memos[memo.key] = self._memos.get(memo.key, memo)",
)
hub(
    "a memo keeps its first time",
    "commit",
    "self._memos[memo.key] = memo",
    "self._memos[memo.key] = dataclasses.replace(memo, expires_at=self._memos.get(memo.key, memo).expires_at)",
)
hub("what belongs to nobody is not consumed", "commit", "self._inbox.pop(sequence, None)", "pass")
hub(
    "whatever is in the inbox is consumed",
    "commit",
    "for sequence in batch.consumed:",
    "for sequence in [*self._inbox]:",
)

# ---- the activity queue

hub("activities outlive their run", "_apply", "if row.status.is_finished:", "if False:")
hub(
    "activities of other kinds end with a run",
    "_apply",
    "if task.key == step.key and task.run_id == step.run_id]",
    "if task.key.id == step.key.id]",
)
hub("activities of all end with a run", "_apply", "if task.key == step.key and task.run_id == step.run_id]", "]")
hub("activities are not dropped", "_apply", "self._queue.pop(task, None)", "pass")
hub(
    "activities are not added",
    "_apply",
    "self._queue[activity.task] = QueueEntry(activity, self._next_number())",
    "pass",
)
CATALOGUE.add(
    "activities of the last step are added after it",
    text(
        HUB,
        "_apply",
        "return row",
        "for activity in step.queue_adds:\n        self._queue[activity.task] = QueueEntry(activity, self._next_number())\n    return row",
    ),
)
