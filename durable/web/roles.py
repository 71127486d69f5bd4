"""Who may do what: three roles, each of which may do what those before it may."""

from __future__ import annotations

import dataclasses
import enum


class Role(enum.IntEnum):
    """VIEWER looks, OPERATOR steers one instance at a time, ADMIN also removes, acts on many at once and reads the audit."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was recognised: the name that the audit tells, and what they may do."""

    name: str
    role: Role


def role_named(name: str) -> Role:
    """Return the role of a name such as "viewer". Raises ValueError."""
    try:
        return Role[name.upper()]
    except KeyError:
        known = ", ".join(role.name.lower() for role in Role)
        raise ValueError(f"{name!r:.60} is no role: choose one of {known}") from None
