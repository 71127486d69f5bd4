"""The SQLite store: one file, for one process or a few on one machine.

`sqlite:///relative.db`, `sqlite:////absolute.db`; `?hub=NAME` chooses the hub, `?mode=rw` refuses to create a missing
file. Beside the file lie SQLite's own `-wal` and `-shm`, `.lock`, which all writers take, and `.live`, where workers show
that they live.
"""

from __future__ import annotations

import urllib.parse

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import Provider
from durable_sqlite.provider import SqliteProvider

__all__ = ["connect"]

OPTIONS = ("hub", "mode")


def connect(url: str, ports: Ports) -> Provider:
    """Return a provider for `sqlite:///PATH[?hub=NAME][&mode=rw]`; nothing is touched before its `open`."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path.removeprefix("/"))
    if not url.startswith("sqlite:///") or parts.netloc or parts.fragment or not path:
        raise StoreError(f"'{url}' names no file: write sqlite:///relative.db or sqlite:////absolute.db")
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise StoreError(f"'{url}': unknown option '{name}'; a SQLite store knows {', '.join(OPTIONS)}")
    mode = options.get("mode", "rwc")
    if mode not in ("rw", "rwc"):
        raise StoreError(f"'{url}': mode is rw (the file must exist) or rwc, not '{mode}'")
    return SqliteProvider(path, options.get("hub", "default"), ports, may_create=mode == "rwc")
