"""What the URLs of all stores have in common: they are taken apart in one place, and anything odd is refused.

A path or a hub's name that was silently changed on its way would be another store: `urllib` drops tabs and newlines, and
replaces what is no UTF-8.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection, Mapping
from typing import NamedTuple

from durable.errors import StoreError

_SHOWN_CHARACTERS_MAX = 200
PART_CHARACTERS_MAX = 4096
"""No file's path is longer on Linux, and no name of a hub, a server or a database needs to be."""

_CREDENTIALS = re.compile(r"//[^/?#]*@")
_UNWRITTEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|^\s|\s$")
"""Characters that no URL has; in a path or a name they are written with `%`, if they may stand there at all."""


class StoreUrl(NamedTuple):
    """The parts of a store's URL, each as text with its `%` escapes undone."""

    scheme: str
    authority: str
    path: str
    options: Mapping[str, str]


def split_store_url(url: str, known_options: Collection[str]) -> StoreUrl:
    """Take `scheme://authority/path?option=value&…` apart. Raises StoreError for anything else.

    Options are refused if they are not known, given twice, or empty.
    """
    if _UNWRITTEN.search(url):
        raise StoreError(f"{shown(url)} has a character that no URL has: write it as % and two hexadecimal digits")
    try:
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.unquote(parts.path, errors="strict")
        authority = urllib.parse.unquote(parts.netloc, errors="strict")
        pairs = urllib.parse.parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise StoreError(f"{shown(url)} is no URL: {str(error)[:_SHOWN_CHARACTERS_MAX]}") from error
    if parts.fragment or url.endswith("#"):
        raise StoreError(f"{shown(url)} has a '#', which begins a part that no store has: write it as %23")
    for text in (authority, path, *(value for _, value in pairs)):
        if "\0" in text:
            raise StoreError(f"{shown(url)} has a NUL, which no name may have")
        if len(text) > PART_CHARACTERS_MAX:
            raise StoreError(
                f"{shown(url)} has a part of {len(text):,} characters; the most is {PART_CHARACTERS_MAX:,}"
            )
    options: dict[str, str] = {}
    for name, value in pairs:
        if name not in known_options:
            raise StoreError(
                f"{shown(url)}: unknown option '{name:.60}'; a {parts.scheme:.60} store knows {', '.join(known_options)}"
            )
        if name in options:
            raise StoreError(f"{shown(url)}: option '{name}' is given twice")
        if not value.strip():
            raise StoreError(f"{shown(url)}: option '{name}' is empty")
        options[name] = value
    return StoreUrl(parts.scheme, authority, path, options)


def shown(url: str) -> str:
    """Return a URL as an error text may show it: short, quoted, without user and password."""
    return repr(_CREDENTIALS.sub("//…@", url, count=1)[:_SHOWN_CHARACTERS_MAX])
