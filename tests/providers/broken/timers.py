"""Ways to break the promises about time."""

from __future__ import annotations

from tests.providers.broken.variants import Catalogue

CATALOGUE = Catalogue("timers")
hub = CATALOGUE.hub

# ---- delayed

hub("what is delayed comes at once", "receive", "and message.visible_at <= now\n", "\n")
hub("what is delayed comes a moment late", "receive", "message.visible_at <= now", "message.visible_at < now")
hub("what is delayed never comes", "receive", "message.visible_at <= now", "message.visible_at == 0")
hub(
    "control does not wait for its time",
    "receive",
    "and message.visible_at <= now\n",
    "and (message.visible_at <= now or message.priority is Priority.CONTROL)\n",
)
hub(
    "what is delayed comes last",
    "receive",
    "(message.priority, message.sequence)",
    "(message.priority, message.visible_at, message.sequence)",
)
hub(
    "what was delayed overtakes within its instance",
    "receive",
    "    eligible.sort(",
    "    eligible = sorted(eligible, key=lambda m: -m.visible_at)[:limit]\n    eligible.sort(",
)
hub(
    "times beyond a century are cut",
    "_store",
    "message.visible_at,",
    "min(message.visible_at, self._now_us() + 10**9),",
)

# ---- parked

hub("what is parked receives", "receive", "self._parked_until(message.target) <= now", "True")
hub("what is parked hears no control", "receive", "message.priority is Priority.CONTROL or ", "")
hub(
    "what was parked stays so",
    "receive",
    "self._parked_until(message.target) <= now",
    "self._parked_until(message.target) == 0",
)
hub(
    "what was parked comes a moment late",
    "receive",
    "self._parked_until(message.target) <= now",
    "self._parked_until(message.target) < now",
)
hub(
    "what has ended stays parked",
    "_parked_until",
    "return 0 if row is None else row.parked_until",
    "return 0 if row is None else max(row.parked_until, row.scheduled_at if row.status.is_finished else 0)",
)
hub(
    "a run inherits parking",
    "_put",
    "self._instances[row.key] = row",
    "row = self._instances[row.key] = row if former is None else dataclasses.replace(row, parked_until=max(row.parked_until, former.parked_until))",
)
hub(
    "parking outlives a commit",
    "_apply",
    "for name in PROGRESS_COLUMNS}",
    "for name in PROGRESS_COLUMNS if name != 'parked_until' or step.progress.parked_until}",
)
hub(
    "a new run is not parked",
    "_apply",
    "self._put(step.replaced_by)",
    "self._put(dataclasses.replace(step.replaced_by, parked_until=0))",
)
hub(
    "what is parked cannot be consumed",
    "_apply",
    "self._inbox.pop(sequence, None)",
    "self._parked_until(step.key) or self._inbox.pop(sequence, None)",
)
hub(
    "a parked flood comes back to front",
    "receive",
    "(message.priority, message.sequence)",
    "(message.priority, -message.sequence if self._parked_until(message.target) else message.sequence)",
)

# ---- due

hub("what is due is in no order", "receive", "due = sorted(", "due = list(")
hub("the last moment is not due", "receive", "due_at <= due_before and", "due_at < due_before and")
hub("the first moment is due again", "receive", "due_after < due_at", "due_after <= due_at")
hub("what is due is not cut", "receive", "if due_at <= last_due]", "]")
hub(
    "what is due is cut within a moment",
    "receive",
    "[(key, due_at) for due_at, key in due if due_at <= last_due]",
    "[(key, due_at) for due_at, key in due][:limit]",
)
hub("what is due comes once", "receive", "last_due =", "[self._due.pop(key) for _, key in due]\n    last_due =")
hub("what others own is due", "receive", " and self._instances[key].partition in owned", "")
hub("what has ended is due", "_put", " and not row.status.is_finished", "")
hub(
    "what has not begun is never due",
    "_put",
    "if row.due_at is not None and",
    "if row.due_at is not None and row.status and",
)
hub(
    "what is suspended is never due",
    "_put",
    "if row.due_at is not None and",
    "if row.due_at is not None and row.status is not Status.SUSPENDED and",
)
hub(
    "what is stalled is never due",
    "_put",
    "if row.due_at is not None and",
    "if row.due_at is not None and row.status is not Status.STALLED and",
)
hub(
    "what is parked is never due",
    "_put",
    "if row.due_at is not None and",
    "if row.due_at is not None and not row.parked_until and",
)
hub("a due time cannot be taken back", "_put", "self._due.pop(row.key, None)", "pass")
hub(
    "a due time cannot be moved",
    "_put",
    "self._due[row.key] = row.due_at",
    "self._due[row.key] = min(row.due_at, former.due_at if former and former.due_at else row.due_at)",
)
hub(
    "a lost lease has something due",
    "_owned_by",
    " or row.epoch != lease.epoch:\n        return set()",
    ":\n        return set()\n    if row.epoch != lease.epoch:\n        return set(self._owners)",
)
