"""The activity behind `ctx.call_http`: it sends one request, and follows redirects. Needs the extra `http`.

A name is resolved here, each address that it has is judged, and the connection goes to the very address that was judged: the
library is given that address and no name to resolve again. So a name whose answer changes between the look and the connection
gains nothing. TLS is still verified against the name. Proxies of the environment are not used: behind one, nobody knows where a
request ends up.
"""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import functools
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urljoin

import httpx

from durable.activity_context import ActivityContext
from durable.http.addresses import Address, address_of, is_among, is_public
from durable.http.calling import headers_for
from durable.http.messages import HttpRequest, HttpResponse
from durable.http.policy import DEFAULT_PORTS, HttpFailedError, HttpPolicy, HttpRefusedError, Origin, shown

logger = logging.getLogger("durable.http")

ADDRESSES_TRIED_MAX: Final = 4
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
UNSAFE: Final = frozenset({"POST", "PATCH"})
"""What is sent with an idempotency key: a crash repeats it, and the server can tell."""

RETRY_AFTER_S_MAX: Final = 365 * 24 * 3600.0


is_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("durable_http_is_ours", default=False)


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not is_ours.get()


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    # They log whole URLs and headers, in which secrets travel. What the program's own requests log is none of our business.
    logging.getLogger(_name).addFilter(_is_not_ours)


@functools.cache
def verifying() -> ssl.SSLContext:
    """Return the one TLS context by which servers prove who they are."""
    return httpx.create_ssl_context(trust_env=False)  # tens of milliseconds: once, not for each request


def sender(policy: HttpPolicy) -> Callable[[ActivityContext, HttpRequest], Awaitable[HttpResponse]]:
    """Return the activity that sends what a policy allows."""

    async def send_http(ctx: ActivityContext, request: HttpRequest) -> HttpResponse:
        if request.method in UNSAFE:
            request.headers.setdefault("idempotency-key", ctx.idempotency_key)
        is_ours.set(True)  # in the attempt's own context
        try:
            return await _followed(policy, request)
        except httpx.HTTPError as error:
            raise HttpFailedError(f"{request.method} {shown(request.url)}: {type(error).__name__}: {error}") from None
        except httpx.InvalidURL as error:
            raise HttpRefusedError(f"{shown(request.url)} is no URL: {error}") from None

    return send_http


async def _followed(policy: HttpPolicy, request: HttpRequest) -> HttpResponse:
    for _ in range(policy.redirects_max + 1):
        response = await _sent(policy, request)
        location = response.headers.get("location")
        if response.status in request.failing:
            raise HttpFailedError(f"{request.method} {shown(request.url)} was answered with status {response.status}")
        if response.status not in REDIRECTS or location is None or not policy.redirects_max:
            return response
        request = _redirected(request, response.status, location)
    raise HttpRefusedError(f"more than {policy.redirects_max} redirects, the last one to {shown(request.url)}")


def _redirected(request: HttpRequest, status: int, location: str) -> HttpRequest:
    headers, method, body = request.headers, request.method, request.body
    try:
        url = urljoin(request.url, location)
    except ValueError as error:
        raise HttpRefusedError(f"{shown(request.url)} redirects to what is no URL: {error}") from None
    if status == 303 or (status in (301, 302) and method == "POST"):  # as every browser does it
        method, body = ("HEAD" if method == "HEAD" else "GET"), None
        headers = {name: value for name, value in headers.items() if not name.startswith("content-")}
    kept = headers_for(headers, request.url, url)
    if body is not None and "content-type" in headers:
        kept["content-type"] = headers["content-type"]
    return HttpRequest(method, url, kept, body, request.failing)


async def _sent(policy: HttpPolicy, request: HttpRequest) -> HttpResponse:
    origin = policy.check(request.url)
    headers = {
        "host": origin.host_header,
        "accept": "*/*",
        "accept-encoding": "identity",  # what a few bytes may expand to is not for a server to choose
        "user-agent": "durable-orchestration",
        **request.headers,
        **{name.lower(): value for name, value in policy.headers_for(origin)},
    }
    addresses = await _addresses(policy, origin)
    transport = httpx.AsyncHTTPTransport(verify=verifying(), trust_env=False)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=None) as client:  # the attempt has one
        for address in addresses[:ADDRESSES_TRIED_MAX]:
            outgoing = _to(client, request, origin, address, headers)
            try:
                answer = await client.send(outgoing, stream=True)
                break
            except httpx.ConnectError as error:
                failed = error
        else:
            raise failed
        try:
            return await _read(policy, request, answer)
        finally:
            await answer.aclose()


def _to(
    client: httpx.AsyncClient, request: HttpRequest, origin: Origin, address: Address, headers: dict[str, str]
) -> httpx.Request:
    """Return the request to a server at this address, which is asked for, and must prove, the host of the URL."""
    url = httpx.URL(request.url)
    host = url.raw_host.decode("ascii")  # `host` would show the letters behind an xn--
    if (url.scheme, host.rstrip("."), url.port or DEFAULT_PORTS[url.scheme]) != origin:
        raise HttpRefusedError(f"{shown(request.url)} is read in two ways, as {origin} and with the host {host}")
    url = url.copy_with(host=str(address))
    return client.build_request(
        request.method, url, headers=headers, content=request.body, extensions={"sni_hostname": origin.host}
    )


async def _addresses(policy: HttpPolicy, origin: Origin) -> list[Address]:
    """Resolve a host. Raises HttpRefusedError if any of its addresses is not allowed, HttpFailedError if it has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HttpFailedError(f"{origin.host} has no address: {error}") from None
    addresses = list(dict.fromkeys(address_of(str(sockaddr[0])) for *_, sockaddr in found))
    if not addresses:
        raise HttpFailedError(f"{origin.host} has no address")
    for address in addresses:
        if not is_public(address) and not is_among(address, policy.private):
            raise HttpRefusedError(
                f"{origin.host} is at {address}, which is no public address: "
                "if that is meant, name its network in HttpPolicy(allow_private=…)"
            )
    return addresses


async def _read(policy: HttpPolicy, request: HttpRequest, answer: httpx.Response) -> HttpResponse:
    limit, parts, size = policy.body_bytes_max, [], 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > limit:
            raise HttpRefusedError(f"the answer of {shown(request.url)} is over the limit of {limit} bytes")
        parts.append(part)
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() != "set-cookie"}
    logger.debug("%s %s: status %d, %d bytes", request.method, shown(request.url), answer.status_code, size)
    return HttpResponse(answer.status_code, request.url, headers, b"".join(parts), _retry_after(headers))


def _retry_after(headers: dict[str, str]) -> float | None:
    """Return the seconds that a server wants to be left alone; None where it does not say so, or not in words to understand."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:20]), RETRY_AFTER_S_MAX)
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)
