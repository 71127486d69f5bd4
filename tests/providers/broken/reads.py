"""Ways to break the promises about what is read."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from typing import Any

import durable_memory.listings

from durable.provider import InstanceRow, Page
from tests.providers.broken.variants import MODULE, PROVIDER, Catalogue, swap, text

CATALOGUE = Catalogue("reads")
hub = CATALOGUE.hub


def wanted(name: str, old: str, new: str) -> None:
    """Add a variant whose filter differs by a piece of text."""
    CATALOGUE.add(name, text(MODULE, "is_wanted", old, new))


def pages(name: str, old: str, new: str) -> None:
    """Add a variant whose pages differ by a piece of text."""
    CATALOGUE.add(name, text(MODULE, "page_of", old, new))


# ---- rows

CATALOGUE.add(
    "absent rows are left out",
    text(
        PROVIDER,
        "load",
        "[hub.find_run(key, run_id) for key, run_id in targets]",
        "[row for key, run_id in targets if (row := hub.find_run(key, run_id))]",
    ),
)
CATALOGUE.add(
    "rows come in the order of their ids",
    text(PROVIDER, "load", "for key, run_id in targets]", "for key, run_id in sorted(targets, key=str)]"),
)
hub(
    "only the current run is found",
    "find_run",
    "if current is not None and run_id in (None, current.run_id):",
    "if True:",
)
hub("a run that has ended is not found", "find_run", "ended = self._ended.get(run_id)", "ended = None")
hub("a run that waits is not found", "find_run", "return self._waiting_run(key, run_id)", "return None")

# ---- histories

hub(
    "records are in no order",
    "read_history",
    "sorted(self._records.get((run_id, generation), {}).items())",
    "reversed(self._records.get((run_id, generation), {}).items())",
)
hub("a history is read from its beginning", "read_history", "index >= first and ", "")
hub("the first record is skipped", "read_history", "index >= first", "index > first")
hub("a history is read whole", "read_history", " and size < bytes_max", "")
hub("a record over the budget is not read", "read_history", "size < bytes_max", "size + len(record.data) <= bytes_max")
hub("one generation is another", "read_history", "(run_id, generation)", "(run_id, 0)")
hub(
    "long records are cut",
    "_apply",
    "[record.index] = record",
    "[record.index] = record._replace(data=record.data[:RECORD_BYTES_MAX])".replace("RECORD_BYTES_MAX", "512 * 1024"),
)
hub("checksums are not kept", "_apply", "[record.index] = record", "[record.index] = record._replace(checksum=b'')")

# ---- listings

wanted("kinds are not told apart", "wanted.kind is None or row.key.kind == wanted.kind", "True")
wanted(
    "all kinds means the ordinary one",
    "wanted.kind is None or row.key.kind == wanted.kind",
    "row.key.kind == (wanted.kind or 'o')",
)
wanted("statuses are passed over", "not wanted.status or row.status in wanted.status", "True")
wanted("one status is looked for at a time", "row.status in wanted.status", "row.status == wanted.status[0]")
wanted("names are passed over", "wanted.name is None or row.name == wanted.name", "True")
wanted("names are told apart without case", "row.name == wanted.name", "row.name.lower() == wanted.name.lower()")
wanted("a prefix is found anywhere", "row.key.id.startswith(wanted.prefix)", "wanted.prefix in row.key.id")
wanted(
    "a prefix is told apart without case",
    "row.key.id.startswith(wanted.prefix)",
    "row.key.id.lower().startswith(wanted.prefix.lower())",
)
CATALOGUE.add(
    "a prefix is a pattern",
    swap(
        MODULE,
        "is_wanted",
        lambda row, wanted: (
            durable_memory.listings.is_wanted(row, _without_prefix(wanted))
            and fnmatch.fnmatchcase(row.key.id, (wanted.prefix or "").replace("%", "*").replace("_", "?") + "*")
        ),
    ),
)
wanted("one tag is enough", "all(row", "not wanted.tags or any(row")
wanted("the values of tags are passed over", "row.tags.get(name) == value", "name in row.tags")
wanted("created_after is exclusive", "row.created_at >= wanted.created_after", "row.created_at > wanted.created_after")
wanted(
    "created_before is inclusive", "row.created_at < wanted.created_before", "row.created_at <= wanted.created_before"
)
wanted("created_before is passed over", "row.created_at < wanted.created_before", "True")
wanted(
    "the kind of a parent is passed over",
    "row.parent == wanted.parent",
    "row.parent is not None and row.parent.id == wanted.parent.id",
)
wanted("parents are passed over", "wanted.parent is None or row.parent == wanted.parent", "True")
hub(
    "runs that have ended are listed",
    "list_instances",
    "self._instances.values()",
    "[*self._ended.values(), *self._instances.values()]",
)
hub(
    "a count is of all",
    "count",
    "sum(is_wanted(row, wanted) for row in self._instances.values())",
    "len(self._instances)",
)
hub(
    "a count stops at a hundred",
    "count",
    "sum(is_wanted(row, wanted) for row in self._instances.values())",
    "min(sum(is_wanted(row, wanted) for row in self._instances.values()), 100)",
)
pages("pages come in any order", "sorted(found, key=_place, reverse=newest_first)", "list(found)")
pages(
    "pages come by time alone",
    "sorted(found, key=_place, reverse=newest_first)",
    "sorted(found, key=lambda row: row.created_at, reverse=newest_first)",
)
pages("the oldest always come first", "reverse=newest_first", "reverse=False")
pages(
    "the last of a page comes again",
    "_place(row) < last if newest_first else _place(row) > last",
    "_place(row) <= last if newest_first else _place(row) >= last",
)
pages("a page is followed by an empty one", "len(rows) > limit", "len(rows) >= limit")
pages("there is but one page", "len(rows) > limit", "False")
pages("more is listed than was asked for", "Page(rows[:limit]", "Page(rows[: limit + 1]")
pages(
    "a wrong page is the first",
    "last = _last_place(page)",
    "try:\n            last = _last_place(page)\n        except StoreError:\n            return Page(rows[:limit], None)",
)


def _by_offset(found: Any, limit: int, page: bytes | None, *, newest_first: bool) -> Page:
    """Pages as many a store begins with them: what comes or goes meanwhile shifts the rest."""
    rows = sorted(found, key=_place, reverse=newest_first)
    offset = 0
    if page is not None:
        durable_memory.listings._last_place(b"[0, 0, 0]" if page.isdigit() else page)
        offset = int(page)
    has_more = len(rows) > offset + limit
    return Page(rows[offset : offset + limit], json.dumps(offset + limit).encode() if has_more else None)


def _place(row: InstanceRow) -> tuple[int, str, str]:
    return row.created_at, row.key.id, row.key.kind


def _without_prefix(wanted: Any) -> Any:
    return dataclasses.replace(wanted, prefix=None)


CATALOGUE.add("pages are counted by offset", swap(MODULE, "page_of", _by_offset))

# ---- memos

hub(
    "what has expired is not read though it is there",
    "read_memos",
    "[:limit]]",
    "[:limit] if self._memos[key].expires_at > self._now_us()]",
)
hub("a memo is removed a moment late", "_forget_expired", "memo.expires_at <= now", "memo.expires_at < now")
BELOW = "self._memos.below(prefix, after)"
for _name, _keys in {
    "memos come in any order": "[key for key in self._memos if key.startswith(prefix) and key > after]",
    "the newest memos come first": "[key for key in reversed(self._memos) if key.startswith(prefix) and key > after]",
    "a memo's prefix is found anywhere": "sorted(key for key in self._memos if prefix in key and key > after)",
    "a memo's prefix is told apart without case": (
        "sorted(key for key in self._memos if key.lower().startswith(prefix.lower()) and key > after)"
    ),
    "memos are read from the beginning": "self._memos.below(prefix)",
    "the last memo is read again": "sorted(key for key in self._memos if key.startswith(prefix) and key >= after)",
}.items():
    hub(_name, "read_memos", BELOW, _keys)
hub("more memos are read than were asked for", "read_memos", "[:limit]", "")
