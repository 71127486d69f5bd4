"""The memory store: the reference implementation of the storage contract, for tests, simulations and first steps.

`memory://` is private to the provider object, `memory://NAME` is shared by all of the process that ask for that name and
lives as long as the process, so that a worker may stop and another go on; with `?until=closed`, until the last of them
closes. `?hub=NAME` chooses the hub. Everything runs inline, so that a simulator with its own
clock and loop can use it; read `hub.py` for what each call means.
"""

from __future__ import annotations

import re

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import Provider
from durable.urls import shown, split_store_url
from durable_memory.provider import MemoryProvider

__all__ = ["connect"]

OPTIONS = ("hub", "message_bytes_max", "until")
LIMIT = re.compile(r"[0-9]{1,18}")


def connect(url: str, ports: Ports) -> Provider:
    """Return a provider for `memory://[NAME]` and the options named above; nothing exists before its `open`."""
    parts = split_store_url(url, OPTIONS)
    if parts.scheme != "memory" or parts.path:
        raise StoreError(f"{shown(url)} is no memory store: write memory:// or memory://NAME")
    limit = parts.options.get("message_bytes_max")
    if limit is not None and not LIMIT.fullmatch(limit):
        raise StoreError(f"{shown(url)}: message_bytes_max is a number of bytes, not '{limit:.60}'")
    until = parts.options.get("until")
    if until not in (None, "closed"):
        raise StoreError(f"{shown(url)}: until is 'closed', not '{until:.60}'")
    return MemoryProvider(
        parts.authority,
        parts.options.get("hub", "default"),
        ports,
        message_bytes_max=None if limit is None else int(limit),
        is_kept=until is None,
    )
