"""Versions of activities and orchestrators: dot-separated numbers, compared as numbers.

`1.10` is newer than `1.9`; a missing part counts as 0, so `1` and `1.0` are one version; no version counts as `0`.
"""

from __future__ import annotations

import functools
import re
from typing import TypeAlias

VersionKey: TypeAlias = tuple[int, ...]
"""A version as the registry orders and compares it: its numbers without trailing zeros. `()` is version 0."""

UNVERSIONED = "0"
"""How "no version" is written where a version must be exact, for example in a history."""

# Far above any real version, and far below the 4,300 digits at which int() itself refuses.
_VERSION_CHARACTERS_MAX = 100

# [0-9] rather than \d: other scripts' digits would make two spellings of one version that look alike.
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


def version_key(version: str | None) -> VersionKey:
    """Return what `version` compares as. Raises ValueError for anything but None and dot-separated numbers."""
    if version is None:
        return ()
    # A program without types may pass 1.10, which as a float is 1.1 and must not be taken silently.
    if not isinstance(version, str):
        raise _no_version(version)
    return _numbers(version)


@functools.lru_cache(maxsize=1024)  # a version is looked up for every call of an activity
def _numbers(version: str) -> VersionKey:
    if _VERSION.fullmatch(version) is None:
        raise _no_version(version)
    if len(version) > _VERSION_CHARACTERS_MAX:
        raise ValueError(f"version of {len(version)} characters is over the limit of {_VERSION_CHARACTERS_MAX}")
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _no_version(version: object) -> ValueError:
    return ValueError(f"version {version!r:.200} is not a string of dot-separated numbers: write it like '1.10'")


def canonical_version(version: str | None) -> str:
    """Return the one spelling of `version`, equal for equal versions: `1.0` gives `1`, None gives `0`."""
    return ".".join(map(str, version_key(version))) or UNVERSIONED
