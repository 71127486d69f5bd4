"""Who asks: by a bearer token, by the session that one has opened, by the host application's word, or nobody in particular.

A token travels in the `Authorization` header or in the body of a login, never in an address. A session is a cookie that no
script can read and no other site can send along; what changes something needs the session's CSRF token beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import inspect
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from starlette.requests import Request

from durable.web.roles import Principal, Role
from durable.web.sessions import Sessions, csrf_of
from durable.web.tokens import TokenFile, digest_of

Authenticate: TypeAlias = Callable[[Request], "Principal | Awaitable[Principal | None] | None"]

SessionsOf: TypeAlias = Callable[[], Awaitable[Sessions]]
"""Gives the sessions of the hub, which is opened for that."""

COOKIE: Final = "durable_session"

LOOPBACK_CLIENTS: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost"})
PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who asks. `csrf`: what must come along where something is changed; None where no browser sends it unasked."""

    principal: Principal
    csrf: str | None
    way: str


class Access:
    """How callers are recognised. Made by one of the class methods, or by `tokens` and `host` joined in one."""

    def __init__(
        self,
        *,
        tokens: TokenFile | None = None,
        authenticate: Authenticate | None = None,
        anonymous: Role | None = None,
        secret: bytes | None = None,
    ) -> None:
        """`tokens`: bearer tokens and sessions; `authenticate`: the host application's own; `anonymous`: see `on_loopback`.

        `secret`: see `by_host`.
        """
        self.tokens = tokens
        self._authenticate = authenticate
        self._anonymous = anonymous
        self._key = secret if secret is not None else secrets.token_bytes(32)

    @classmethod
    def by_tokens(cls, path: str | os.PathLike[str]) -> Access:
        """Take the bearer tokens of a file, see `durable.web.add_token`. Raises InvalidInputError for a file that is none."""
        return cls(tokens=TokenFile(path))

    @classmethod
    def by_host(cls, authenticate: Authenticate, *, secret: bytes | None = None) -> Access:
        """Ask the host application: a function, or a coroutine function, from the request to a `Principal` or None.

        `secret`: where several processes serve the site, the same random bytes in each, so that one takes the CSRF tokens that
        another has given; None: random ones of its own.
        """
        return cls(authenticate=authenticate, secret=secret)

    @classmethod
    def on_loopback(cls, role: Role = Role.ADMIN) -> Access:
        """Let everybody on this very machine in, and nobody who comes from elsewhere or through a proxy."""
        return cls(anonymous=role)

    @property
    def is_open(self) -> bool:
        """Whether somebody may get in without saying who they are."""
        return self._anonymous is not None

    # ---- recognising

    async def identify(self, request: Request, sessions: SessionsOf) -> Identity | None:
        """Return who asks, or None. A header that is wrong is never made good by a cookie. Raises StoreError."""
        header = request.headers.get("authorization")
        scheme, _, token = (header or "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        if is_bearer and self.tokens is not None and (holder := self.tokens.find(token.strip())) is not None:
            return Identity(holder, None, "token")
        if self._authenticate is not None:
            answer = self._authenticate(request)
            principal = await answer if inspect.isawaitable(answer) else answer
            if principal is not None:
                # A browser sends no bearer header by itself; a cookie of the host's, or a password, it does.
                return Identity(principal, None if is_bearer else self._csrf(f"host {principal.name}"), "host")
        if header is not None:
            return None
        session = request.cookies.get(COOKIE)
        if session and self.tokens is not None and (found := await self._of_session(session, sessions)) is not None:
            return found
        if self._anonymous is not None and _is_from_here(request):
            return Identity(Principal("anonymous", self._anonymous), self._csrf("anonymous"), "anonymous")
        return None

    async def _of_session(self, session: str, sessions: SessionsOf) -> Identity | None:
        digest = await (await sessions()).token_of(session)
        if digest is None or self.tokens is None:
            return None
        principal = self.tokens.find_digest(digest)  # the token may have been taken away meanwhile
        return None if principal is None else Identity(principal, csrf_of(session), "session")

    def _csrf(self, whose: str) -> str:
        return hmac.new(self._key, whose.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    # ---- sessions

    async def open_session(self, token: str, sessions: SessionsOf) -> str | None:
        """Return a new session for the holder of a token, None for a token that nobody knows. Raises StoreError."""
        if self.tokens is None or self.tokens.find(token) is None:
            return None
        return await (await sessions()).open(digest_of(token))

    async def close_session(self, session: str, sessions: SessionsOf) -> None:
        """End a session; one that is none is none afterwards, too. Raises StoreError."""
        if self.tokens is not None and session and await (await sessions()).token_of(session) is not None:
            await (await sessions()).close(session)


def _is_from_here(request: Request) -> bool:
    """Tell whether a request comes from this machine, by itself: behind a proxy everybody seems to."""
    is_proxied = any(name in request.headers for name in PROXY_HEADERS)
    return not is_proxied and request.client is not None and request.client.host in LOOPBACK_CLIENTS
