"""Ways to break the promises about what a store cannot hold."""

from __future__ import annotations

import durable_memory.refusal

from tests.providers.broken.variants import MODULE, Catalogue, swap, text

CATALOGUE = Catalogue("limits")
hub = CATALOGUE.hub
REFUSAL = durable_memory.refusal

# ---- what is refused

CATALOGUE.add("nothing is too large", swap(REFUSAL, "_is_too_large", lambda leaf, bytes_max: False))
CATALOGUE.add(
    "the limit itself is too large", text(REFUSAL, "_is_too_large", "len(leaf) > bytes_max", "len(leaf) >= bytes_max")
)
CATALOGUE.add("bad text is stored", swap(REFUSAL, "_is_bad_text", lambda leaf: False))
CATALOGUE.add("names are not looked at", text(REFUSAL, "_leaves", "yield name\n", "pass\n"))
CATALOGUE.add(
    "only the data of a message is looked at",
    text(
        MODULE,
        "refusal_of_message",
        "(message.target, message.run_id, message.data, message.start)",
        "(message.data, message.run_id, message.target)",
    ),
)
CATALOGUE.add("a message's target is not looked at", text(MODULE, "refusal_of_message", "message.target, ", ""))
CATALOGUE.add("a step's state is not looked at", text(MODULE, "refusal_of_step", "step.progress, ", ""))
CATALOGUE.add("a step's activities are not looked at", text(MODULE, "refusal_of_step", "step.queue_adds, ", ""))
CATALOGUE.add("the run that takes a place is not looked at", text(MODULE, "refusal_of_step", "step.replaced_by, ", ""))
CATALOGUE.add("a step's columns are not looked at", text(MODULE, "refusal_of_step", "step.changes, ", ""))
CATALOGUE.add(
    "records have the limit of a value",
    text(
        MODULE,
        "refusal_of_step",
        "step.begins, memos)",
        "step.begins, memos, [record.data for _, record in step.appends])",
    ),
)
hub(
    "what is too large is refused by an error",
    "_deliver",
    "refusal = refusal_of_message(message, bytes_max)",
    "refusal = refusal_of_message(message, bytes_max)\n    if refusal is not None:\n        raise StoreError(refusal.reason)",
)
hub("what is refused has a row in the way", "_deliver", "None if verdict in REFUSALS else row", "row")
hub(
    "a refused message is stored all the same",
    "_deliver",
    "if verdict is Verdict.STORED:",
    "if verdict in REFUSALS:\n        self._store(message, row, wakeup)\n    if verdict is Verdict.STORED:",
)
hub("all refusals are alike", "_deliver", "else refusal.verdict", "else Verdict.REFUSED")

# ---- steps

hub("a refused step refuses the batch", "commit", "refused[index] = reason", "raise StoreError(reason)")
hub("a refused step is written", "commit", "if index not in refused]", "]")
hub("a refused step sends its messages", "commit", "if index in unsent_messages else", "if False else")
hub("a refused step writes its memos", "commit", "if index in unsent_memos:", "if False:")
hub("a refused step takes all messages along", "commit", "if index in unsent_messages else", "if refused else")
hub("why a step was refused is not said", "commit", "refused[index] = reason", 'refused[index] = ""')
hub(
    "what was refused is not named",
    "commit",
    "Committed(deliveries, now, refused, refused_memos)",
    "Committed(deliveries, now, {}, refused_memos)",
)
hub(
    "what was refused is not told again",
    "commit",
    "return row.commit_answer\n    check",
    "return dataclasses.replace(row.commit_answer, refused={})\n    check",
)
hub(
    "what stands in for a refused step's messages is written",
    "commit",
    "if index in unsent_messages else self._deliver(message, bytes_max, wakeup)",
    "if index in unsent_messages and (message.otherwise is None or [self._deliver_instead(message.otherwise, bytes_max, wakeup)]) else self._deliver(message, bytes_max, wakeup)",
)

# ---- memos, and what stands in

hub("a refused memo does not refuse its step", "commit", "[batch.memos[memo] for memo in step.memos]", "[]")
hub("a refused memo of no step is not named", "commit", "refused_memos[index] = refusal.reason", "pass")
hub(
    "a refused memo is not told again",
    "commit",
    "return row.commit_answer\n    check",
    "return dataclasses.replace(row.commit_answer, refused_memos={})\n    check",
)
hub("a refused memo is written", "commit", "refused_memos[index] = refusal.reason", "self._memos[memo.key] = memo")
hub(
    "a refused memo refuses the batch",
    "commit",
    "refused_memos[index] = refusal.reason",
    "raise StoreError(refusal.reason)",
)
hub(
    "a memo that stands in is written whatever it holds",
    "_deliver_instead",
    "if refusal := refusal_of_memo(item, bytes_max):",
    "if refusal := None:",
)
hub(
    "a refusal of what stands in is not told",
    "_deliver",
    "self._deliver_instead(message.otherwise, bytes_max, wakeup) or verdict",
    "(self._deliver_instead(message.otherwise, bytes_max, wakeup), verdict)[1]",
)
hub(
    "what would stand in is looked at though it is not needed",
    "_deliver",
    "verdict = self._judge(message, row) if refusal is None else refusal.verdict",
    "verdict = self._judge(message, row) if refusal is None else refusal.verdict\n    if message.otherwise is not None and not isinstance(message.otherwise, Message) and (refusal := refusal_of_memo(message.otherwise, bytes_max)):\n        verdict = refusal.verdict",
)
