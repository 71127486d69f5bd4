"""Ways to break the promises about runs that begin with their first step."""

from __future__ import annotations

from tests.providers.broken.variants import HUB, MODULE, Catalogue, text

CATALOGUE = Catalogue("beginnings")
hub = CATALOGUE.hub

hub(
    "an id in use is taken over",
    "commit",
    "elif step.begins is not None and step.key in self._instances:",
    "elif False:",
)
hub(
    "only what is unfinished has an id in use",
    "commit",
    "step.key in self._instances:",
    "step.key in self._instances and not self._instances[step.key].status.is_finished:",
)
hub(
    "an id in use refuses the whole batch",
    "commit",
    """refused[index] = f"the id '{step.key.id}' is in use\"""",
    "raise LeaseLostError(step.key.id)",
)
hub(
    "whoever has a lease begins runs",
    "_check_step",
    "if is_ours and step.begins is not None:",
    "if step.begins is not None:",
)
hub(
    "the row is written as its start would have it",
    "_apply",
    "row = step.begins or",
    "row = dataclasses.replace(step.begins, records=0) if step.begins else",
)
hub(
    "a run that begins has no due time",
    "_put",
    "if row.due_at is not None",
    "if former is not None and row.due_at is not None",
)
hub(
    "what begins and ends at once leaves its attempts",
    "_apply",
    "if row.status.is_finished:",
    "if row.status.is_finished and step.begins is None:",
)
hub(
    "what is left out sends its messages all the same",
    "commit",
    "unsent_messages = {index for step in unsent for index in step.messages}",
    "unsent_messages = {index for step in unsent if step.begins is None for index in step.messages}",
)
hub(
    "what is left out writes its memos all the same",
    "commit",
    "unsent_memos = {index for step in unsent for index in step.memos}",
    "unsent_memos = {index for step in unsent if step.begins is None for index in step.memos}",
)
hub(
    "a run that begins is not told",
    "commit",
    "rows = [row for row in rows if row.key not in gone]",
    "rows = [row for row, step in zip(rows, steps) if step.begins is None]",
)
CATALOGUE.add(
    "a repeated batch finds its own runs in the way",
    text(HUB, "commit", "if row.commit_answer is not None and batch.number == row.commit_number:", "if False:"),
    text(MODULE, "check_number", "if number <= last:", "if number < last:"),
)
