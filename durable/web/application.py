"""The ASGI application: one gate through which every request goes, and behind it the table of operations and the dashboard.

The gate, in this order: the host is one of ours; there is such an operation, matched on whole segments of the path, without
redirects, suffixes or second readings; the caller is known; has the role; the site is not read-only where something is changed;
and no other site has sent a browser here. What is public is named in the table, and is otherwise nothing.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durable.app import App
from durable.client import Client
from durable.errors import (
    DurableError,
    HandlerFailedError,
    HistoryDamagedError,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    InvalidInputError,
    LimitExceededError,
    StoreUnavailableError,
    UpdateRejectedError,
)
from durable.payloads import Sealer
from durable.provider import Provider
from durable.web.access import Access, Identity
from durable.web.assets import Assets
from durable.web.calls import Call, Fields, Operation, Refusal, answer
from durable.web.description import describe
from durable.web.operations import OPERATIONS
from durable.web.roles import Role
from durable.web.site import Options, Site

logger = logging.getLogger("durable.web")

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

ANSWERS_TO: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (InstanceNotFoundError, 404, "not_found"),
    (InstanceFinishedError, 409, "finished"),
    (InstanceRunningError, 409, "running"),
    (InstanceAlreadyExistsError, 409, "exists"),
    (UpdateRejectedError, 409, "refused"),
    (HandlerFailedError, 422, "handler_failed"),
    (LimitExceededError, 413, "too_large"),
    (StoreUnavailableError, 503, "store_unavailable"),
    (HistoryDamagedError, 500, "history_damaged"),
    (InvalidInputError, 400, "bad_input"),
    (TimeoutError, 504, "timeout"),
    (LookupError, 404, "not_found"),
    (TypeError, 400, "bad_input"),
    (ValueError, 400, "bad_input"),
    (DurableError, 500, "error"),
)
"""Which error is which answer; the first that fits."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
JSON: Final = "application/json"


class WebApp:
    """The API and the dashboard of one hub, as an ASGI application: to be served, or mounted into another.

    Made by `create_app`. The store is opened with the first request, or by `open`; the lifespan's end closes it, and where no
    lifespan reaches a mounted application, `aclose` does.
    """

    def __init__(self, site: Site, access: Access, hosts: Collection[str]) -> None:
        self._site = site
        self._access = access
        self._hosts = frozenset(host.lower() for host in hosts)
        self._assets = Assets()
        described = Operation(
            "GET", "/api/openapi.json", Role.VIEWER, self._describe, "This description.", query=Fields
        )
        self.operations: tuple[Operation, ...] = (*OPERATIONS, described)
        self._routes = [(_pattern(operation.path), operation) for operation in self.operations]

    async def open(self) -> None:
        """Open the store now. Raises StoreError with a remedy."""
        await self._site.client()

    def end_streams(self) -> None:
        """Let all live updates end: for a server that is about to stop, and would wait for them."""
        self._site.end_streams()

    async def aclose(self) -> None:
        """Let go of the store, where it was opened here."""
        await self._site.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive)
            response = await self._respond(request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers.setdefault("Cache-Control", "no-store")
            await response(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # ---- the gate

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._let_in(request)
        except Refusal as refusal:
            return _refused(refusal)
        except Exception as error:
            for kind, status, code in ANSWERS_TO:
                if isinstance(error, kind) and (isinstance(error, DurableError) or status < 500 or status == 504):
                    return _refused(_as_refusal(error, status, code))
            logger.exception("%s %s failed", request.method, request.scope.get("path"))
            return _refused(Refusal(500, "bug", "this went wrong; the server's log has the stack"))

    async def _let_in(self, request: Request) -> Response:
        self._check_host(request)
        path = _path_of(request.scope)
        if request.method in SAFE_METHODS and (asset := self._assets.find(path, request)) is not None:
            return asset
        operation = self._find(request, path)
        identity = None
        if operation.role is not None:
            identity = await self._identify(request)
            if identity is None:
                raise Refusal(401, "who_are_you", "no token, or one that nobody has", {"WWW-Authenticate": "Bearer"})
            if identity.principal.role < operation.role:
                raise Refusal(403, "not_allowed", f"this is for the role {operation.role.name.lower()} and above")
        if operation.changes and self._site.options.read_only:
            raise Refusal(403, "read_only", "this site only shows: it was started read-only")
        if request.method not in SAFE_METHODS:
            _check_same_site(request, identity)
        return await operation.handler(Call(request, self._site, self._access, identity))

    async def _identify(self, request: Request) -> Identity | None:
        try:
            return await self._access.identify(request, self._site.sessions)
        except InvalidInputError as error:  # no fault of whoever asks, who is told no names of files
            logger.error("nobody can be recognised: %s", error)
            raise Refusal(503, "access_unavailable", "who asks cannot be told at the moment; see the log") from error

    def _check_host(self, request: Request) -> None:
        """A name of somebody else's that leads here is how a foreign page would read this one."""
        given = request.headers.getlist("host")
        name = re.sub(r":\d*$", "", given[0]).lower() if len(given) == 1 else ""
        if "*" not in self._hosts and name not in self._hosts:
            raise Refusal(400, "bad_host", "the host of this request is none of the allowed ones")

    def _find(self, request: Request, path: str) -> Operation:
        method = "GET" if request.method == "HEAD" else request.method
        allowed: list[str] = []
        for pattern, operation in self._routes:
            if (match := pattern.fullmatch(path)) is not None:
                if operation.method == method:
                    request.scope["path_params"] = match.groupdict()
                    return operation
                allowed.append(operation.method)
        if allowed:
            raise Refusal(405, "bad_method", "there is no such operation here", {"Allow": ", ".join(allowed)})
        raise Refusal(404, "no_such_path", "there is nothing at this path")

    async def _describe(self, call: Call) -> Response:
        call.query(Fields)
        return answer(describe(self.operations, call.request.scope.get("root_path", "")))


def _pattern(path: str) -> re.Pattern[str]:
    """Return what matches a path of the table: whole segments, and no slash, dot or dots in the place of one."""
    parts = re.split(r"\{(\w+)\}", path)
    names, fixed = parts[1::2], parts[0::2]
    text = re.escape(fixed[0])
    for name, rest in zip(names, fixed[1:], strict=True):
        text += rf"(?P<{name}>(?!\.{{1,2}}(?:/|\Z))[^/]+)" + re.escape(rest)
    return re.compile(text, re.DOTALL)


def _path_of(scope: Scope) -> str:
    """Return the path below where this is mounted."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(root + "/")) else path


def _check_same_site(request: Request, identity: Identity | None) -> None:
    """Refuse what another site may have let a browser send: it comes with the browser's own credentials."""
    if identity is not None and identity.csrf is None:
        return  # a bearer token, which no browser sends by itself
    headers = request.headers
    fetched = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    is_ours = fetched in ("same-origin", "none") if fetched is not None else True
    if fetched is None and origin is not None:
        is_ours = origin.partition("://")[2].lower() == headers.get("host", "").lower()
    if not is_ours:
        raise Refusal(403, "other_site", "another site has sent this")
    if request.method != "DELETE" and headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refusal(415, "not_json", f"send JSON, and the header Content-Type: {JSON}")
    if identity is None or identity.way == "anonymous":
        return
    given = headers.get("x-csrf-token", "")
    if not hmac.compare_digest(given.encode(), (identity.csrf or "").encode()):
        raise Refusal(403, "csrf", "a session's changes need the header X-CSRF-Token, from GET /api/session")


def _as_refusal(error: Exception, status: int, code: str) -> Refusal:
    headers = {"Retry-After": "2"} if status == 503 else {}
    return Refusal(status, code, str(error) or type(error).__name__, headers)


def _refused(refusal: Refusal) -> Response:
    content = {"error": {"code": refusal.code, "message": refusal.message}}
    return answer(content, refusal.status, refusal.headers)


def create_app(
    store: str | Provider | Client,
    *,
    access: Access,
    allowed_hosts: Iterable[str] = LOOPBACK_HOSTS,
    app: App | None = None,
    sealer: Sealer | None = None,
    read_only: bool = False,
    payload_role: Role = Role.VIEWER,
    title: str = "durable",
) -> WebApp:
    """Return the API and the dashboard of a hub as an ASGI application.

    `store`: a URL, or a client that its owner has opened, such as `worker.client`. `access`: who is let in, see `Access`.
    `allowed_hosts`: the names under which it is reached, without port (`["orders.example.com"]`); `"*"` for any, which only
    goes together with an access that is not open to everybody. `app` and `sealer`: as for a `Client` of this URL.
    `payload_role`: who sees inputs, outputs, events' data, states, errors' texts and other values; others see that there is
    one. Raises InvalidInputError for what is not safe.
    """
    hosts = tuple(allowed_hosts)
    if "*" in hosts and access.is_open:
        raise InvalidInputError("any host, and anybody on this machine: a foreign page could read this; name the hosts")
    client, is_owner = (store, False) if isinstance(store, Client) else (Client(store, app, sealer=sealer), True)
    options = Options(read_only=read_only, payload_role=payload_role, title=title)
    return WebApp(Site(client, options, is_owner=is_owner), access, hosts)
