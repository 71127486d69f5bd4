"""What an app allows of HTTP. Nothing is allowed that is not named here.

app.allow_http(HttpPolicy(allow=["https://api.example.com", "https://*.partner.example"]))
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from durable.errors import DurableError, NonRetryableError
from durable.http.addresses import Network
from durable.payloads import PAYLOAD_BYTES_MAX

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

BODY_BYTES_MAX: Final = 1024 * 1024
HEADERS_BYTES_MAX: Final = 256 * 1024
"""Left of a payload for headers and the rest: the library reads no more than 100 KiB of them."""

REDIRECTS_MAX: Final = 5

HeaderValue: TypeAlias = str | Callable[[], str]

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD: Final = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")


class HttpRefusedError(NonRetryableError):
    """A request that the app's policy does not allow, or a response that is over its limit. Never tried again."""


class HttpFailedError(DurableError):
    """A request that got no response, or one with a status that counts as a failed attempt."""


class Origin(NamedTuple):
    """Where a request goes: scheme, host in lower case, port."""

    scheme: str
    host: str
    port: int

    @property
    def host_header(self) -> str:
        """What a request's `Host` says: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


class HttpPolicy:
    """What may be called.

    `allow`: origins, such as "https://api.example.com" or "http://reports.internal:8080"; "https://*.example.com" stands for
    all names below that one, and "https://*" for every host. An address that a name resolves to must be public, or lie in
    one of the networks `allow_private`, such as "10.2.0.0/16". `headers`: by origin (as in `allow`), what is sent along to
    it and to nobody else, and never reaches a history or a log: a value, or a function that returns one for each request.
    A response's body may have `body_bytes_max` bytes, and follow `redirects_max` redirects. Raises ValueError for what is
    no origin, no network, no header, or a limit out of range.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str],
        allow_private: Iterable[str] = (),
        headers: Mapping[str, Mapping[str, HeaderValue]] | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
        redirects_max: int = REDIRECTS_MAX,
    ) -> None:
        if isinstance(allow, str) or isinstance(allow_private, str):
            raise TypeError("allow and allow_private take lists of texts, not one text")
        self._allowed = tuple(map(_origin_pattern, allow))
        if not self._allowed:
            raise ValueError("allow= names no destination: nothing could be called")
        self.private: Final = tuple(map(_network, allow_private))
        self._headers = tuple(
            (_origin_pattern(origin), tuple(given.items())) for origin, given in (headers or {}).items()
        )
        for _, given in self._headers:
            for name, value in given:
                check_header(name, "" if callable(value) else value)
        if not 1 <= body_bytes_max <= PAYLOAD_BYTES_MAX - HEADERS_BYTES_MAX:
            raise ValueError(
                f"body_bytes_max must be from 1 to {PAYLOAD_BYTES_MAX - HEADERS_BYTES_MAX}, not {body_bytes_max!r}: "
                "a response is a payload of the history; download more in an activity of your own"
            )
        if not 0 <= redirects_max <= 20:
            raise ValueError(f"redirects_max must be from 0 to 20, not {redirects_max!r}")
        self.body_bytes_max: Final = body_bytes_max
        self.redirects_max: Final = redirects_max

    def __repr__(self) -> str:
        return f"HttpPolicy(allow={[str(origin) for origin in self._allowed]})"

    def check(self, url: str) -> Origin:
        """Return the origin of a URL that may be called. Raises HttpRefusedError."""
        origin = origin_of(url)
        if not any(_fits(origin, pattern) for pattern in self._allowed):
            allowed = ", ".join(map(str, self._allowed))
            raise HttpRefusedError(f"{origin} is not among the allowed destinations: {allowed}")
        return origin

    def headers_for(self, origin: Origin) -> list[tuple[str, str]]:
        """Return what is sent along to a destination. Raises HttpRefusedError for what a function gives that is no value."""
        found = []
        all_given = (given for pattern, given in self._headers if _fits(origin, pattern))
        for name, given in itertools.chain.from_iterable(all_given):
            value = given() if callable(given) else given
            try:
                check_header(name, value)
            except ValueError as error:
                raise HttpRefusedError(str(error)) from None
            found.append((name, value))
        return found


def is_token(text: str) -> bool:
    """Tell whether a text can be a method, or the name of a header."""
    return _TOKEN.fullmatch(text) is not None


def check_header(name: str, value: object) -> None:
    """Raise ValueError for what cannot be a header. The value is not shown: the library below would, in the history."""
    if not is_token(name):
        raise ValueError(f"{name!r:.60} is no name of a header")
    if not isinstance(value, str) or not _FIELD.fullmatch(value):
        raise ValueError(
            f"the header {name} is no line of ASCII text without spaces around it (is there the end of a line behind it?)"
        )


def origin_of(url: str) -> Origin:
    """Return the origin of an absolute URL. Raises HttpRefusedError for what is none, or holds a user's name or password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise HttpRefusedError(f"this is no URL: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise HttpRefusedError(f"only http:// and https:// URLs with a host can be called, not {shown(url)}")
    if parts.username is not None or parts.password is not None:
        raise HttpRefusedError(
            "a URL with a user's name or password would show them in the history: use HttpPolicy(headers=)"
        )
    if not parts.hostname.isascii():
        raise HttpRefusedError(f"{parts.hostname[:100]!r}: write the host's name in ASCII, as xn--…")
    host = parts.hostname.rstrip(".")
    return Origin(parts.scheme, host, DEFAULT_PORTS[parts.scheme] if port is None else port)


def shown(url: str) -> str:
    """Return a URL for messages and logs: without its query, in which secrets travel, and cut short."""
    return url.partition("?")[0].partition("#")[0].rpartition("@")[2][:200]


def _origin_pattern(text: str) -> Origin:
    full = text if "://" in text else f"https://{text}"
    try:
        parts, origin = urlsplit(full), origin_of(full)
    except HttpRefusedError as error:
        raise ValueError(f"{text!r} is no origin: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is more than an origin: write {origin}, without a path")
    wild = origin.host.removeprefix("*.") if origin.host != "*" else ""
    if "*" in wild:
        raise ValueError(
            f"{text!r}: a * stands for a whole host, or for what is before a first dot, as in *.example.com"
        )
    return origin


def _fits(origin: Origin, pattern: Origin) -> bool:
    if (origin.scheme, origin.port) != (pattern.scheme, pattern.port):
        return False
    if pattern.host.startswith("*."):
        return origin.host.endswith(pattern.host[1:]) and len(origin.host) >= len(pattern.host)
    return pattern.host in ("*", origin.host)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network: {error}; write 10.2.0.0/16, or one address") from None
