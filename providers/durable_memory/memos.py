"""Memos by key, with the order of their keys at hand: a prefix is looked up without going through all of them."""

from __future__ import annotations

import bisect
import itertools

from durable.provider import Memo


class Memos(dict[str, Memo]):
    """A dict of memos that knows its keys in order."""

    def __init__(self) -> None:
        super().__init__()
        self._order: list[str] = []

    def __setitem__(self, key: str, memo: Memo) -> None:
        if key not in self:
            bisect.insort(self._order, key)
        super().__setitem__(key, memo)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._order[bisect.bisect_left(self._order, key)]

    def below(self, prefix: str, after: str = "") -> list[str]:
        """Return the keys that begin with `prefix` and come after `after`, in order: that of text is that of its UTF-8."""
        first = max(bisect.bisect_left(self._order, prefix), bisect.bisect_right(self._order, after) if after else 0)
        keys = itertools.islice(self._order, first, None)
        return list(itertools.takewhile(lambda key: key.startswith(prefix), keys))
