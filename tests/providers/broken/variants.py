"""A broken variant of the memory provider: its real code with a small change, for as long as it is `applied`.

Most changes are of text: in the source of this function, this becomes that. Such a variant stays what the provider is, but
for the one slip that somebody could make; where the provider's code moves on, making the variant fails and says so.
"""

from __future__ import annotations
import __future__

import contextlib
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import durable_memory.hub
from durable_memory.hub import MemoryHub
from durable_memory.provider import MemoryProvider

HUB, PROVIDER = MemoryHub, MemoryProvider
MODULE = durable_memory.hub
"""Where the hub's code looks for its plain functions."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A function of `owner` in another form."""

    owner: Any
    name: str
    make: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to break the promise of a group; `name` says what is wrong."""

    promise: str
    name: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"{self.promise}: {self.name}"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the memory provider be this one."""
        with contextlib.ExitStack() as patches:
            for change in self.changes:
                patches.enter_context(mock.patch.object(change.owner, change.name, change.make()))
            yield


def text(owner: Any, name: str, old: str, new: str) -> Change:
    """In the source of this function `old`, which stands there once, becomes `new`."""
    return Change(owner, name, lambda: _rewritten(getattr(owner, name), old, new))


def swap(owner: Any, name: str, function: Any) -> Change:
    """`function` takes the place of this one."""
    return Change(owner, name, lambda: function)


class Catalogue:
    """Collects the variants of one promise."""

    def __init__(self, promise: str) -> None:
        self.promise = promise
        self.variants: list[Variant] = []

    def add(self, name: str, *changes: Change) -> None:
        """Add a variant."""
        self.variants.append(Variant(self.promise, name, changes))

    def hub(self, name: str, method: str, old: str, new: str) -> None:
        """Add a variant that differs by a piece of text in a method of the hub."""
        self.add(name, text(HUB, method, old, new))

    def provider(self, name: str, method: str, old: str, new: str) -> None:
        """Add a variant that differs by a piece of text in a method of the provider."""
        self.add(name, text(PROVIDER, method, old, new))


def _rewritten(function: Any, old: str, new: str) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    found = source.count(old)
    assert found == 1, f"{function.__qualname__} has {found} times {old!r}: the provider has changed, adapt the variant"
    names = dict(function.__globals__)
    code = compile(source.replace(old, new), inspect.getfile(function), "exec", __future__.annotations.compiler_flag)
    exec(code, names)  # a function of our own, a line apart from itself
    return names[function.__name__]
