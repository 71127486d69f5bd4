"""Ways to break the promises about messages."""

from __future__ import annotations

from tests.providers.broken.variants import MODULE, Catalogue, swap

CATALOGUE = Catalogue("messages")
hub = CATALOGUE.hub

# ---- what a message expects

hub("an event to nobody is stored", "_judge", "return Verdict.ABSENT", "return Verdict.STORED")
hub(
    "an event to what has ended is stored",
    "_judge",
    "return Verdict.FINISHED if row.status.is_finished else Verdict.STORED",
    "return Verdict.STORED",
)
hub(
    "an event to what is suspended is refused",
    "_judge",
    "return Verdict.FINISHED if row.status.is_finished else",
    "return Verdict.FINISHED if row.status.is_finished or row.status is Status.SUSPENDED else",
)
hub(
    "an event to what is stalled is refused",
    "_judge",
    "return Verdict.FINISHED if row.status.is_finished else",
    "return Verdict.FINISHED if row.status >= Status.STALLED else",
)
hub(
    "an event to what has not begun is refused",
    "_judge",
    "return Verdict.FINISHED if row.status.is_finished else",
    "return Verdict.ABSENT if row.status is Status.PENDING else Verdict.FINISHED if row.status.is_finished else",
)
hub("an event for one run reaches another", "_judge", "if message.run_id not in (None, row.run_id):", "if False:")
hub(
    "an event for a run that waits is refused",
    "_judge",
    "is_waiting = self._waiting_run(message.target, str(message.run_id)) is not None",
    "is_waiting = False",
)
hub(
    "an event for a run that is no more is stored",
    "_judge",
    "if is_waiting and message.run_id not in self._ended else Verdict.FINISHED",
    "if is_waiting or not row.status.is_finished else Verdict.FINISHED",
)
hub("the row in the way is not told", "_deliver", "None if verdict in REFUSALS else row", "None")
hub("a message loses its run", "_store", "message.run_id,", "None,")
hub("a message loses its time", "_store", "message.visible_at,", "0,")
hub("a message loses its priority", "_store", "else message.priority", "else Priority.NORMAL")
hub("a message loses the run that it begins", "_store", "message.start,\n", "None,\n")

# ---- otherwise

hub("nothing is stored in place of a message", "_deliver", "message.otherwise is not None", "False")
hub("no memo is written in place of a message", "_deliver_instead", "self._memos[item.key] = item", "pass")
hub(
    "what stands in is written in any case",
    "_deliver",
    "if verdict is Verdict.STORED:",
    "if message.otherwise is not None:\n        self._deliver_instead(message.otherwise, bytes_max, wakeup)\n    if verdict is Verdict.STORED:",
)
hub(
    "what stands in for what stands in is written",
    "_deliver_instead",
    "dataclasses.replace(item, otherwise=None)",
    "item",
)
hub(
    "what stands in is stored whatever it expects",
    "_deliver_instead",
    "verdict = self._deliver(dataclasses.replace(item, otherwise=None), bytes_max, wakeup).verdict",
    "verdict = self._store(item, None, wakeup)",
)
hub(
    "a start does not stand in",
    "_deliver_instead",
    "dataclasses.replace(item, otherwise=None)",
    "dataclasses.replace(item, otherwise=None, start=None)",
)
hub(
    "a refused message is stored all the same",
    "_deliver",
    "if verdict is Verdict.STORED:",
    "if verdict is not Verdict.STORED:\n        self._store(message, row, wakeup)\n    else:",
)

# ---- submits

hub("a submit is not remembered", "submit", "if number == row.submit_number:", "if False:")
CATALOGUE.add("an older submit is stored again", swap(MODULE, "check_number", lambda *given: None))
hub(
    "submits and commits are counted together",
    "submit",
    'check_number("submit", number, row.submit_number)',
    'check_number("submit", number, max(row.submit_number, row.commit_number))',
)
hub("the answer to a submit is another's", "submit", "return row.submit_answer", "return ()")
hub(
    "all leases share a count",
    "submit",
    "row = self._leases.setdefault(lease.lease_id,",
    'row = self._leases.setdefault("all",',
)
hub(
    "a client that was quiet is refused",
    "submit",
    "if number == row.submit_number:",
    "if row.expires_at < now:\n        raise LeaseLostError('too late')\n    if number == row.submit_number:",
)
hub("a forgotten client is refused", "submit", "now = self._now_us()", "now = self._now_us()\n    self._row_of(lease)")
hub("a lost lease comes back to life by a submit", "submit", "lease.epoch + 1)", "lease.epoch)")
hub(
    "one refused message refuses the rest",
    "submit",
    "deliveries = [self._deliver(message, bytes_max, wakeup) for message in messages]",
    "deliveries = []\n    for message in messages:\n        ok = all(delivery.verdict is Verdict.STORED for delivery in deliveries)\n        deliveries.append(self._deliver(message, bytes_max, wakeup) if ok else Delivery(Verdict.ABSENT))",
)

# ---- receiving

hub(
    "what is received is gone",
    "receive",
    "last_due =",
    "self._inbox = {n: m for n, m in self._inbox.items() if m not in eligible[:limit]}\n    last_due =",
)
hub("what is consumed by a step stays", "_apply", "self._inbox.pop(sequence, None)", "pass")
hub("what is consumed beside the steps stays", "commit", "self._inbox.pop(sequence, None)", "pass")
hub("what is held is received again", "receive", "and message.sequence not in held\n", "\n")
hub("control does not go ahead", "receive", "(message.priority, message.sequence)", "message.sequence")
hub(
    "the newest comes first", "receive", "(message.priority, message.sequence)", "(message.priority, -message.sequence)"
)
hub("more is received than was asked for", "receive", "eligible[:limit]", "eligible")
hub("everybody receives", "receive", "if message.partition in owned\n", "if True\n")
hub(
    "who took a partition does not receive",
    "take",
    "self._owners[partition] = lease.lease_id",
    "self._owners.setdefault(partition, lease.lease_id)",
)
hub("a message to nobody waits for ever", "_parked_until", "return 0 if row is None", "return 2**62 if row is None")
hub(
    "sequences are used again",
    "_next_number",
    "self._sequence += 1",
    "self._sequence = max(self._inbox, default=0) + 1",
)

# ---- a message in the place of another

hub(
    "what is stored in the place of another goes to the end",
    "_store",
    "self._next_number() if message.in_place_of is None else message.in_place_of,",
    "self._next_number(),",
)
hub(
    "what is stored in the place of another goes before it",
    "_store",
    "else message.in_place_of,",
    "else message.in_place_of - 1,",
)
hub(
    "what is stored in the place of another counts the sequences back",
    "_store",
    "else message.in_place_of,",
    "else setattr(self, '_sequence', message.in_place_of) or message.in_place_of,",
)
hub(
    "what came for a run for later comes before it is due",
    "_put",
    "self._instances[row.key] = row",
    "row = self._instances[row.key] = dataclasses.replace(row, parked_until=0 if former is not None else row.parked_until)",
)
