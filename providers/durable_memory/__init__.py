"""The memory store: the reference implementation of the storage contract, for tests, simulations and first steps.

`memory://` is private to the provider object, `memory://NAME` is shared by all of the process that ask for that name and
is gone when the last of them closes. `?hub=NAME` chooses the hub. Everything runs inline, so that a simulator with its own
clock and loop can use it; read `hub.py` for what each call means.
"""

from __future__ import annotations

import urllib.parse

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import Provider
from durable_memory.provider import MemoryProvider

__all__ = ["connect"]

OPTIONS = ("hub", "message_bytes_max")


def connect(url: str, ports: Ports) -> Provider:
    """Return a provider for `memory://[NAME][?hub=NAME][&message_bytes_max=N]`; nothing exists before its `open`."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "memory" or parts.path or parts.fragment:
        raise StoreError(f"'{url}' is no memory store: write memory:// or memory://NAME")
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise StoreError(f"'{url}': unknown option '{name}'; a memory store knows {', '.join(OPTIONS)}")
    limit = options.get("message_bytes_max")
    if limit is not None and not limit.isdecimal():
        raise StoreError(f"'{url}': message_bytes_max is a number of bytes, not '{limit}'")
    store_name = urllib.parse.unquote(parts.netloc)
    hub_name = options.get("hub", "default")
    return MemoryProvider(store_name, hub_name, ports, message_bytes_max=None if limit is None else int(limit))
