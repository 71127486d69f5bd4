"""Limits of activities: at most so many at a time, or starts in a span of time, across all workers of a hub.

keeper    the program that gives permits, one instance for each limit
running   what runs it

What owners and workers say to keepers is in `durable.permits`, below the worker; an app's declarations are in `durable.app`.
"""

from durable.limits.running import LIMITS
from durable.orchestrations import register_kind
from durable.permits import KIND

__all__ = ["register"]


def register() -> None:
    """Put the feature in its places; `durable/__init__` calls it."""
    register_kind(KIND, LIMITS)
