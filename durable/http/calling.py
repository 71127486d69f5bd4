"""`ctx.call_http`: one task, behind it the first request and, as long as the answer is "202 Accepted", the polling.

Each request is an activity (`durable.http`), each wait a durable timer, so that a call outlives every process. After a 202 with
a `Location` that place is asked (GET) after `Retry-After`, or the call's own interval, until it answers something else:
the asynchronous pattern of Durable Functions.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from durable.engine.tasks import Task
from durable.errors import DurableError
from durable.http.messages import HttpRequest, HttpResponse
from durable.http.policy import HttpPolicy, HttpRefusedError, check_header, is_token, origin_of, shown

if TYPE_CHECKING:
    from durable.app import App, ServedName
    from durable.context import OrchestrationContext
    from durable.retry import RetryPolicy

ACTIVITY: Final = "durable.http"

RETRIED_STATUSES: Final = (408, 429, 500, 502, 503, 504)
"""With a retry policy, and nothing else said, these count as a failed attempt: the server may answer better later."""

POLLS_EVERY_S_MIN: Final = 1.0
"""However soon a server wants to be asked again: each time costs events of the history."""

KEPT_HEADERS: Final = frozenset({"accept", "accept-language", "user-agent"})
"""What is sent to another origin than the one that was called. Anything else may be a secret between the two."""

NOT_GIVEN: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that say how a request is sent, and to whom: another `Host` would reach what the policy has never looked at."""


class Allowed:
    """What the feature keeps in an app."""

    def __init__(self, policy: HttpPolicy | None = None) -> None:
        self.policy = policy

    def merged(self, other: Allowed) -> Allowed:
        """Return the policy of both; if there are two, the activities under one name have been refused before."""
        return Allowed(self.policy or other.policy)

    def served(self) -> tuple[ServedName, ...]:
        """Return nothing: the activity is an ordinary one."""
        return ()


def allow(app: App, policy: HttpPolicy) -> None:
    """For `App.allow_http`."""
    if not isinstance(policy, HttpPolicy):
        raise TypeError(f"allow_http takes an HttpPolicy, not {policy!r:.200}")
    try:
        sending = importlib.import_module("durable.http.sending")
    except ModuleNotFoundError as error:
        raise DurableError(
            f"call_http needs the package '{error.name}': pip install 'durable-orchestration[http]'"
        ) from error
    kept = app.feature(Allowed, Allowed)
    if kept.policy is not None:
        raise DurableError("allow_http was called before: name all destinations in one HttpPolicy")
    app.activity(name=ACTIVITY)(sending.sender(policy))
    kept.policy = policy


def call(
    ctx: OrchestrationContext,
    method: str,
    url: str,
    content: Any,
    *,
    headers: Mapping[str, str] | None,
    enable_polling: bool,
    poll_interval: timedelta | float,
    retry_policy: RetryPolicy | None,
    retry_statuses: Collection[int] | None,
    **options: Any,
) -> Task[HttpResponse]:
    """For `OrchestrationContext.call_http`."""
    if ctx.plans.app.feature(Allowed, Allowed).policy is None:
        raise DurableError(
            "this app allows no HTTP: name the destinations, app.allow_http(HttpPolicy(allow=['https://api.example.com']))"
        )
    origin_of(url)
    failing = RETRIED_STATUSES if retry_statuses is None and retry_policy is not None else retry_statuses or ()
    given, body = _headers(headers or {}), _body(content)
    if content is not None and not isinstance(content, str | bytes) and "content-type" not in given:
        given["content-type"] = "application/json"
    request = HttpRequest(_method(method), url, given, body, sorted(failing))
    return HttpCall(
        ctx, request, enable_polling, _seconds(poll_interval), {"retry_policy": retry_policy, **options}
    ).begin()


class HttpCall:
    """One call. Deterministic, for its next step follows from the recorded answer alone."""

    def __init__(
        self, ctx: OrchestrationContext, request: HttpRequest, is_polling: bool, every_s: float, options: dict[str, Any]
    ) -> None:
        self.task: Task[HttpResponse] = Task(ctx.execution.loop, f"http {request.method} {shown(request.url)}")
        self._ctx = ctx
        self._request = request
        self._is_polling = is_polling
        self._every_s = every_s
        self._options = options
        self._open: Task[Any] | None = None

    def begin(self) -> Task[HttpResponse]:
        """Send the first request; return the task."""
        self._send()
        assert self._open is not None
        self.task.task_id = self._open.task_id
        self.task.when_cancelled(self._give_up)
        return self.task

    def _send(self) -> None:
        self._open = self._ctx.call_activity(ACTIVITY, self._request, **self._options)
        self._open.add_done_callback(self._answered)

    def _answered(self, open_task: asyncio.Future[Any]) -> None:
        if self.task.done():
            return
        if open_task.cancelled():
            asyncio.Future.cancel(self.task)  # nothing is left to pass on
            return
        try:
            self._go_on(_response(open_task.result()))
        except Exception as error:  # noqa: BLE001 (whatever it is, the call has failed by it)
            self.task.fail(error)

    def _go_on(self, response: HttpResponse) -> None:
        location = response.headers.get("location")
        if response.status != 202 or location is None or not self._is_polling:
            self.task.succeed(response)
            return
        self._request = _asking(self._request, response.url, location)
        wait = self._every_s if response.retry_after is None else response.retry_after
        self._open = self._ctx.create_timer(timedelta(seconds=max(wait, POLLS_EVERY_S_MIN)))
        self._open.add_done_callback(self._waited)

    def _waited(self, timer: asyncio.Future[Any]) -> None:
        if not self.task.done() and not timer.cancelled():
            self._send()

    def _give_up(self) -> None:
        if self._open is not None:
            self._open.cancel()


def _response(plain: dict[str, Any]) -> HttpResponse:
    """Return a response as it was recorded; what a later version has noted besides is left out."""
    return HttpResponse(
        **{field.name: plain[field.name] for field in dataclasses.fields(HttpResponse) if field.name in plain}
    )


def _asking(former: HttpRequest, base: str, location: str) -> HttpRequest:
    """Return the request by which a place is polled. One that cannot be is for the activity to refuse, as any other."""
    headers = {name: value for name, value in former.headers.items() if not name.startswith("content-")}
    try:
        url = urljoin(base, location)
        return HttpRequest("GET", url, headers_for(headers, former.url, url), None, former.failing)
    except (ValueError, HttpRefusedError):
        return HttpRequest("GET", location, {}, None, former.failing)


def headers_for(headers: Mapping[str, str], former_url: str, url: str) -> dict[str, str]:
    """Return what goes along to a place that an answer has named: to another origin nothing that may be a secret."""
    if origin_of(former_url) == origin_of(url):
        return dict(headers)
    return {name: value for name, value in headers.items() if name in KEPT_HEADERS}


def _method(method: str) -> str:
    if not is_token(method):
        raise ValueError(f"{method!r:.60} is no HTTP method")
    return method.upper()


def _headers(given: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in given.items():
        check_header(name, value)
        if name.lower() in NOT_GIVEN or name.lower().startswith("proxy-"):
            raise ValueError(f"the header {name} follows from the URL and the content: leave it out")
        headers[name.lower()] = value
    return headers


def _body(content: Any) -> bytes | None:
    if content is None or isinstance(content, bytes):
        return content
    return (
        content.encode()
        if isinstance(content, str)
        else json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    )


def _seconds(span: timedelta | float) -> float:
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not seconds > 0:
        raise ValueError(f"poll_interval must be more than 0, not {span!r}")
    return seconds
