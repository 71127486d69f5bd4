"""Where a store's URL becomes a provider: by its scheme, through the entry-point group `durable.providers`.

The core imports no storage engine. Anyone can add one: a package that names `module:connect` under its scheme.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, cast

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import Provider
from durable.urls import shown

GROUP: Final = "durable.providers"

INSTALLED_BY: Final = {
    "memory": "durable-orchestration",
    "postgres": "durable-orchestration[postgres]",
    "postgresql": "durable-orchestration[postgres]",
    "sqlite": "durable-orchestration",
}
"""Schemes of engines that we know of, and what to install for each."""


def connect(store: str | Provider, ports: Ports) -> Provider:
    """Return the provider of a store's URL, not yet opened; a provider object is handed through.

    Raises StoreError for what is no URL and for a scheme that no installed engine knows, and what the engine's own
    `connect` raises for the rest of the URL.
    """
    if not isinstance(store, str):
        if not callable(getattr(store, "submit", None)):
            raise TypeError(
                f"a store is given as a URL such as 'sqlite:///app.db', or as a provider, not {store!r:.200}"
            )
        return store
    scheme, separator, _ = store.partition("://")
    if not separator or not scheme:
        raise StoreError(f"{shown(store)} is not the URL of a store: write sqlite:///app.db for a file, or memory://")
    return _engine(scheme)(store, ports)


@functools.cache
def _engine(scheme: str) -> Callable[[str, Ports], Provider]:
    from importlib.metadata import entry_points  # here and not above: it brings zip files and e-mail along

    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in found:
        raise StoreError(_unknown(scheme, sorted(found)))
    try:
        return cast("Callable[[str, Ports], Provider]", found[scheme].load())
    except ModuleNotFoundError as error:
        remedy = f"pip install '{INSTALLED_BY.get(scheme, error.name)}'"
        raise StoreError(f"the storage engine for '{scheme}://' needs the package '{error.name}'; {remedy}") from error


def _unknown(scheme: str, known: list[str]) -> str:
    # The URL itself is not shown: it may hold a password.
    names = ", ".join(f"{name}://" for name in known) or "none"
    package = INSTALLED_BY.get(scheme)
    remedy = f"pip install '{package}'" if package else f"install a package with an entry point in {GROUP!r} for it"
    return f"no storage engine for '{scheme:.60}://' is installed (known: {names}); {remedy}"
