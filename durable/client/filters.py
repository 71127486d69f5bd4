"""Which instances a call means: the keyword arguments of `query`, `count`, `wait` and `purge` as a filter of the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, TypedDict

from durable.client.times import microseconds_of
from durable.errors import InvalidInputError
from durable.events import InstanceKey
from durable.ids import check_tags
from durable.model import OrchestrationStatus
from durable.provider import InstanceFilter, Status

Statuses: TypeAlias = OrchestrationStatus | Iterable[OrchestrationStatus]


class Filters(TypedDict, total=False):
    """What limits a listing; all that are given must hold.

    `status`: one or several. `prefix`: of the instance id. `tags`: all of them with these values. `created_after` is
    inclusive, `created_before` exclusive; both aware. `parent`: the instance id of the parent.
    """

    status: Statuses | None
    name: str | None
    prefix: str | None
    tags: Mapping[str, str] | None
    created_after: datetime | None
    created_before: datetime | None
    parent: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """A filter of the store; `is_empty`: it does not limit anything; `is_void`: nothing can match it."""

    wanted: InstanceFilter
    is_empty: bool
    is_void: bool

    def only(self, wanted: Iterable[Status]) -> Selection:
        """Return the same selection, limited to some statuses."""
        status = tuple(one for one in wanted if not self.wanted.status or one in self.wanted.status)
        return Selection(dataclasses.replace(self.wanted, status=status), False, self.is_void or not status)


def selection(
    *,
    status: Statuses | None = None,
    name: str | None = None,
    prefix: str | None = None,
    tags: Mapping[str, str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    parent: str | None = None,
) -> Selection:
    """Return what `Filters` mean. Raises TypeError or ValueError for a bad one."""
    statuses = _statuses(status)
    wanted = InstanceFilter(
        status=statuses or (),
        name=check_text(name, "name"),
        prefix=check_text(prefix, "prefix") or None,
        tags=check_tags(tags or {}),
        created_after=None if created_after is None else microseconds_of(created_after, "created_after"),
        created_before=None if created_before is None else microseconds_of(created_before, "created_before"),
        parent=None if parent is None else InstanceKey(check_text(parent, "parent") or ""),
    )
    # An empty collection of statuses says that none is wanted; the store would take it for no limit.
    return Selection(wanted, is_empty=statuses is None and wanted == InstanceFilter(), is_void=statuses == ())


def check_limit(limit: int | None) -> None:
    """Raise TypeError or ValueError for what cannot be the number of items of a listing."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"limit must be a whole number or None, not {limit!r:.200}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit!r:.200}")


def _statuses(status: Any) -> tuple[Status, ...] | None:
    if status is None:
        return None
    given = (status,) if isinstance(status, str) else tuple(status)
    try:
        names = dict.fromkeys(OrchestrationStatus(one).name for one in given)
    except ValueError:
        known = ", ".join(OrchestrationStatus)
        raise ValueError(f"status must be one or several of {known}, not {status!r:.200}") from None
    return tuple(Status[name] for name in names)


def check_text(value: object, what: str) -> str | None:
    """Return the text that a filter is, None for none. Raises TypeError, and InvalidInputError for no valid Unicode."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r:.200}")
    if value is not None and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # a store could not even be asked for it
            raise InvalidInputError(
                f"{what} must be valid Unicode, without half surrogate pairs: {value[:60]!r}"
            ) from error
    return value
