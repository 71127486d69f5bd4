"""Faces: what stands for an asynchronous object where its event loop is not the one that runs.

A face is made from a class, with the same names and parameters, and forwards to an object of it that lives elsewhere, through
a portal. There is no second implementation: what the class gains, its face gains. A family of faces (blocking ones in
`durable.client.blocking`, those of a simulated loop in `durable.testing`) says how a coroutine function and an asynchronous
generator are forwarded; everything else is the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Final

END: Final = object()
"""What `next_of` returns at the end of an iteration: StopAsyncIteration cannot leave a coroutine."""


class Face:
    """Base of all faces. Holds the object behind it, and the portal through which that one is reached."""

    __slots__ = ("_behind", "_portal")

    faces: ClassVar[dict[type, type[Face]]]
    """The faces of a family, by the class that each stands for."""

    def __init__(self, portal: Any, behind: Any) -> None:
        """For faces only: show `behind`."""
        self._portal = portal
        self._behind = behind

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._behind!r}>"

    @staticmethod
    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return how a coroutine function is forwarded."""
        raise NotImplementedError

    @staticmethod
    def iterating(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return how an asynchronous generator is forwarded."""
        raise NotImplementedError

    def _shown(self, answer: Any) -> Any:
        """Return an answer as users of a face see it: an asynchronous object, or each of a list, behind a face of its own."""
        if type(answer) is list and answer and type(answer[0]) in self.faces:
            return [self._shown(item) for item in answer]
        for kind in type(answer).__mro__:
            if kind in self.faces:
                return self.faces[kind](self._portal, answer)
        return answer


def face_of(kind: type, name: str, *, base: type[Face], without: frozenset[str] = frozenset()) -> type[Face]:
    """Return the face of a class in the family of `base`: its public methods and properties, forwarded."""
    members: dict[str, Any] = {"__slots__": (), "__doc__": kind.__doc__, "__module__": kind.__module__}
    for owner in reversed(kind.__mro__[:-1]):
        for attribute, member in vars(owner).items():
            if not attribute.startswith("_") and attribute not in without:
                forwarded = _forwarded(base, attribute, member)
                if forwarded is not None:
                    members[attribute] = forwarded
    face = type(name, (base,), members)
    # `SyncHandle[int]` in an annotation means nothing at run time.
    face.__class_getitem__ = classmethod(lambda cls, _: cls)  # type: ignore[attr-defined]
    base.faces[kind] = face
    return face


def _forwarded(base: type[Face], attribute: str, member: Any) -> Any:
    if isinstance(member, property):
        return property(lambda self: self._shown(getattr(self._behind, attribute)), doc=member.__doc__)
    if not inspect.isfunction(member):
        return None
    if inspect.isasyncgenfunction(member):
        return base.iterating(member)
    return base.waiting(member) if inspect.iscoroutinefunction(member) else _calling(member)


def _calling(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, /, *arguments: Any, **options: Any) -> Any:
        return self._shown(method(self._behind, *arguments, **options))

    return call


async def next_of(iterator: Any) -> Any:
    """Return the next item of an asynchronous iterator, `END` for none."""
    return await anext(iterator, END)
