"""The SQLite store: one file, for one process or a few on one machine.

`sqlite:///relative.db`, `sqlite:////absolute.db`; `?hub=NAME` chooses the hub, `?mode=rw` refuses to create a missing
file. Beside the file lie SQLite's own `-wal` and `-shm`, `.lock`, which all writers take, and `.live`, where workers show
that they live.
"""

from __future__ import annotations

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import Provider
from durable.urls import shown, split_store_url
from durable_sqlite.provider import SqliteProvider

__all__ = ["connect"]

OPTIONS = ("hub", "mode")


def connect(url: str, ports: Ports) -> Provider:
    """Return a provider for `sqlite:///PATH[?hub=NAME][&mode=rw]`; nothing is touched before its `open`."""
    parts = split_store_url(url, OPTIONS)
    path = parts.path.removeprefix("/")
    if not url.startswith("sqlite:///") or parts.authority or not path:
        raise StoreError(f"{shown(url)} names no file: write sqlite:///relative.db or sqlite:////absolute.db")
    mode = parts.options.get("mode", "rwc")
    if mode not in ("rw", "rwc"):
        raise StoreError(f"{shown(url)}: mode is rw (the file must exist) or rwc, not '{mode:.60}'")
    return SqliteProvider(path, parts.options.get("hub", "default"), ports, may_create=mode == "rwc")
