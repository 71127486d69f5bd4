"""Ways to break the promises about instances."""

from __future__ import annotations

from typing import Any

from durable_memory.hub import MemoryHub

from durable.events import InstanceKey
from durable.provider import Verdict
from tests.providers.broken.running import StagedProvider
from tests.providers.broken.variants import HUB, MODULE, PROVIDER, Catalogue, Change, swap, text

CATALOGUE = Catalogue("instances")
hub = CATALOGUE.hub


class _Careless(dict[InstanceKey, Any]):
    """Rows by a key that is not quite the key."""

    def __init__(self, fold: Any) -> None:
        super().__init__()
        self._fold = fold

    def __getitem__(self, key: InstanceKey) -> Any:
        return super().__getitem__(self._fold(key))

    def __setitem__(self, key: InstanceKey, row: Any) -> None:
        super().__setitem__(self._fold(key), row)

    def __delitem__(self, key: InstanceKey) -> None:
        super().__delitem__(self._fold(key))

    def get(self, key: InstanceKey, default: Any = None) -> Any:
        return super().get(self._fold(key), default)


def _keys_by(fold: Any) -> Change:
    make = HUB.__init__

    def careless(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        self._instances = _Careless(fold)

    return swap(HUB, "__init__", careless)


# ---- starts

CATALOGUE.add("ids that differ in case are one", _keys_by(lambda key: InstanceKey(key.id.lower(), key.kind)))
CATALOGUE.add("ids lose the spaces around them", _keys_by(lambda key: InstanceKey(key.id.strip(), key.kind)))
CATALOGUE.add(
    "ids end at a percent sign", _keys_by(lambda key: InstanceKey(key.id[:1] + key.id[1:].split("%")[0], key.kind))
)
CATALOGUE.add("kinds are not told apart", _keys_by(lambda key: InstanceKey(key.id, "o")))
hub("a start writes no row", "_store", "self._put(message.start)", "pass")
hub(
    "a start's row begins anew",
    "_store",
    "self._put(message.start)",
    "self._put(dataclasses.replace(message.start, state=b''))",
)
hub("the row in the way is not told", "_deliver", "None if verdict in REFUSALS else row", "None")
hub(
    "an id in use is taken",
    "_judge",
    "(message.start, row) else Verdict.EXISTS",
    "(message.start, row) else Verdict.STORED",
)
hub(
    "a finished run is not replaced",
    "_judge",
    "Verdict.STORED if row.status.is_finished else Verdict.EXISTS",
    "Verdict.EXISTS",
)
CATALOGUE.add("nothing is adopted", swap(MODULE, "_is_same_request", lambda start, row: False))
CATALOGUE.add(
    "the child of another run is adopted",
    text(
        MODULE,
        "_is_same_request",
        "(start.parent_run_id, start.parent_task) == (row.parent_run_id, row.parent_task)",
        "start.parent_task == row.parent_task",
    ),
)
CATALOGUE.add(
    "the child of another task is adopted",
    text(
        MODULE,
        "_is_same_request",
        "(start.parent_run_id, start.parent_task) == (row.parent_run_id, row.parent_task)",
        "start.parent_run_id == row.parent_run_id",
    ),
)
CATALOGUE.add(
    "who has no parent is adopted",
    text(
        MODULE,
        "_is_same_request",
        "start is None or start.parent_run_id is None or start.parent_task is None",
        "start is None",
    ),
)
hub(
    "only an unfinished child is adopted",
    "_judge",
    "Verdict.ADOPTED if _is_same_request(message.start, row)",
    "Verdict.ADOPTED if _is_same_request(message.start, row) and not row.status.is_finished",
)
hub(
    "a start that may replace is adopted",
    "_judge",
    "return Verdict.STORED if row.status.is_finished else Verdict.EXISTS",
    "return Verdict.STORED if row.status.is_finished else Verdict.ADOPTED if _is_same_request(message.start, row) else Verdict.EXISTS",
)
hub("what stands in is written for an adopted start", "_deliver", "verdict is not Verdict.ADOPTED and ", "")
hub("data is taken for text", "_store", "message.data,", "message.data.decode(errors='replace').encode(),")
hub(
    "an empty payload is none",
    "_put",
    "self._instances[row.key] = row",
    "row = self._instances[row.key] = dataclasses.replace(row, input=row.input or None)",
)
hub(
    "a checksum is taken for text",
    "_apply",
    "[record.index] = record",
    "[record.index] = record._replace(checksum=record.checksum.strip(b'\\0'))",
)


# ---- one writer

hub(
    "an event is noted in its target's row",
    "_store",
    "self._inbox[stored.sequence] = stored",
    "self._inbox[stored.sequence] = stored\n    if row is not None and message.start is None:\n        self._put(dataclasses.replace(row, updated_at=self._now_us()))",
)
hub(
    "a start replaces what is unfinished",
    "_store",
    "replaces = row is not None and not row.status.is_finished",
    "replaces = False",
)
hub(
    "a heartbeat is noted in the instance's row",
    "report",
    "heartbeat=beat.details)",
    "heartbeat=beat.details)\n            self._put(dataclasses.replace(self._instances[beat.task.key], state=beat.details))",
)
hub(
    "a handover is noted in the instance's row",
    "release",
    "self._disown(lease.lease_id, partitions)",
    "self._disown(lease.lease_id, partitions)\n    for key, found in self._instances.items():\n        self._instances[key] = dataclasses.replace(found, open_work=found.open_work + 1)",
)
hub("what has ended is written on", "_check_step", " or row.status.is_finished", "")
hub("a turn of what has ended is marked", "mark_slow_turn", " and not row.status.is_finished", "")
hub(
    "what has ended takes events",
    "_judge",
    "return Verdict.FINISHED if row.status.is_finished else Verdict.STORED",
    "return Verdict.STORED",
)
hub(
    "what was terminated takes events",
    "_judge",
    "Verdict.FINISHED if row.status.is_finished else",
    "Verdict.FINISHED if Status.COMPLETED <= row.status < Status.TERMINATED else",
)
hub("what has ended is due", "_put", " and not row.status.is_finished", "")
hub("what has ended is recovered", "recover", "and not row.status.is_finished\n", "\n")
hub("what has ended keeps its activities", "_apply", "if row.status.is_finished:", "if False:")

# ---- replacement

hub("a run that was replaced is forgotten", "_put", "self._ended[former.run_id] = former", "pass")
hub("a run that waits is not found", "find_run", "return self._waiting_run(key, run_id)", "return None")
hub("a run is found under any id", "find_run", "return ended if ended.key == key else None", "return ended")
hub(
    "a start that was dropped is found",
    "_apply",
    "self._inbox.pop(sequence, None)",
    "self._inbox[sequence] = dataclasses.replace(self._inbox[sequence], visible_at=2**62)",
)
hub("the run that takes the place is not written", "_apply", "self._put(step.replaced_by)", "pass")

# ---- going on

CATALOGUE.add("a run never goes on", swap(MODULE, "judge_going_on", lambda start, row: Verdict.EXISTS))
CATALOGUE.add(
    "a run goes on that is not there",
    text(MODULE, "judge_going_on", "return Verdict.ABSENT", "return Verdict.STORED"),
)
CATALOGUE.add(
    "an unfinished run goes on",
    text(MODULE, "judge_going_on", "row.status.is_finished and ", ""),
)
CATALOGUE.add(
    "a run goes on in its old generation",
    text(MODULE, "judge_going_on", "row.generation < start.generation", "row.generation <= start.generation"),
)
CATALOGUE.add(
    "a run goes on in the place of another",
    text(MODULE, "judge_going_on", "row.run_id == start.run_id and ", ""),
)
hub(
    "a run that goes on loses its history",
    "_store",
    "self._put(message.start)",
    "self._drop_history(message.start.run_id)\n        self._put(message.start)",
)

# ---- purge

hub("what is unfinished is removed", "purge", "not current.status.is_finished or ", "")
hub("a start that waits is removed with the run before", "purge", " or self._is_awaited(key, run_id)", "")
hub(
    "an earlier start that came too late holds a purge back",
    "_is_awaited",
    "not in (run_id, *self._ended)",
    "!= run_id",
)
hub("a removed run leaves its history", "_forget_runs", "self._drop_history(run_id)", "pass")
hub("a removed run leaves its memos", "_forget_runs", "del self._memos[memo_key]", "pass")
hub("a removed run takes memos of others", "_forget_runs", 'f"run/{run_id}/"', 'f"run/{run_id}"')
hub("a removed run leaves its messages", "purge", "if message.target != key}", "}")
hub("a removed run takes all messages", "purge", "if message.target != key}", "if False}")
hub("earlier runs stay", "purge", "gone = [*former, run_id]", "gone = [run_id]")
hub("later runs go with an earlier one", "purge", "gone = former[: former.index(run_id) + 1]", "gone = former")
hub("an ended run cannot be removed", "purge", "elif run_id in former:", "elif False:")
hub("whatever the run, the current one is removed", "purge", "current.run_id == run_id:", "True:")
CATALOGUE.add(
    "each target counts, removed or not",
    text(
        PROVIDER,
        "purge",
        "sum(hub.purge(key, run_id) for key, run_id in targets)",
        "len([hub.purge(key, run_id) for key, run_id in targets])",
    ),
)

# ---- hubs


def _find_any_hub(self: Any) -> MemoryHub:
    return self._hubs.setdefault("all", MemoryHub("all", self._ports.now_us))


CATALOGUE.add("all hubs are one", swap(StagedProvider, "_find_hub", _find_any_hub))
