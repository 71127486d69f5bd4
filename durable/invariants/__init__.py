"""What must be true of a store after any run, whatever was killed, delayed or doubled in it: read back, and checked.

`violations` reads a whole hub through the storage contract and says in words what is wrong; an empty list is the good
answer. `examine` does so run by run, for a hub of any size, and `examine_waiting` looks at inboxes and the queue while nobody
works. `violations` is made of pure parts, for whoever has runs in hand: `violations_in` one run, `violations_among` parents and
children and events between runs, `violations_between` two looks at the same hub, `violations_of_answers` what clients were
told, `violations_of_order` events of one name. The hub may be alive while it is read. It may not for `read_waiting`, which
takes it over to see what lies in inboxes and queues, for `violations_of_waiting`. Each text begins with the promise that is
broken:

    I1 durable answer       what a client was told is there
    I2 exactly-once         histories without gap, each request answered at most once
    I3 nothing stuck        what is unfinished waits for something that can come
    I6 atomic turn          row, history, children and messages tell the same story
    I7 events conserved     accepted = delivered + listed as dropped
    I8 final means final    nothing changes after the end; histories only grow
    I9 activities           one outcome each, and no more attempts than allowed
    I10 no impossible reads no state that never existed
    I13 integrity           every record matches its checksum, chained from the first
    I14 bounded             nothing is left of what is over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from durable.invariants.comparing import violations_among, violations_between, violations_of_answers
from durable.invariants.runs import Answers, Moment, StoredRun, read_runs
from durable.invariants.stories import violations_in
from durable.invariants.waiting import (
    Accepted,
    Waiting,
    read_waiting,
    violations_of_order,
    violations_of_waiting,
)
from durable.invariants.walking import Waits, examine, examine_waiting
from durable.provider import Provider

__all__ = [
    "Accepted",
    "Answers",
    "Moment",
    "StoredRun",
    "Waiting",
    "Waits",
    "examine",
    "examine_waiting",
    "read_runs",
    "read_waiting",
    "violations",
    "violations_among",
    "violations_between",
    "violations_in",
    "violations_of_answers",
    "violations_of_order",
    "violations_of_waiting",
]


async def violations(
    provider: Provider,
    *,
    before: Sequence[StoredRun] = (),
    answers: Answers | None = None,
    attempts_max: Mapping[str, int] | None = None,
    moment: Moment = Moment.RUNNING,
) -> list[str]:
    """Read the whole hub of an open provider; return what is wrong with it.

    `before`: an earlier look at the same hub (`read_runs`). `attempts_max`: how many attempts a call of the activity of
    that name may have. Raises what the provider raises.
    """
    answers = answers or Answers()
    also = [(run.row.key, run.row.run_id) for run in before]
    runs = await read_runs(provider, [*also, *((key, run_id) for run_id, key in answers.started.items())])
    found = [text for run in runs for text in violations_in(run, attempts_max=attempts_max)]
    found += violations_among(runs, moment)
    found += violations_between(before, runs, purged=answers.purged)
    found += violations_of_answers(runs, answers, moment)
    return found
