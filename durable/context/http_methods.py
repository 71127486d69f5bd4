"""What an orchestrator asks of HTTP, as a method of its context. What it does is the feature's; here are its types."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from durable.context.options import DECLARED, Declared
from durable.engine.tasks import Task
from durable.features import feature

if TYPE_CHECKING:
    from durable.http import HttpResponse
    from durable.retry import RetryPolicy


class HttpMethods:
    """The part of `OrchestrationContext` that is about HTTP."""

    def call_http(
        self,
        method: str,
        url: str,
        content: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        enable_polling: bool = True,
        poll_interval: timedelta | float = 30.0,
        timeout: timedelta | float | None = 100.0,
        retry_policy: RetryPolicy | None = None,
        retry_statuses: Collection[int] | None = None,
        total_timeout: timedelta | float | None = None,
        queue: str | Declared | None = DECLARED,
    ) -> Task[HttpResponse]:
        """Send an HTTP request, if the app allows it; the task gives the response, whatever its status.

        `content`: text or bytes, or plain data to be sent as JSON. A response of 202 with a `Location` is polled there, after
        its `Retry-After` or else after `poll_interval`, until the answer is another one; not with `enable_polling=False`.
        `timeout` limits one attempt of one request with its redirects, `total_timeout` all attempts of one request. With a
        retry policy no answer counts as a failed attempt, and so do the `retry_statuses` (408, 429, 500, 502, 503, 504).
        What is given here is recorded in the history; what must not be stands in `HttpPolicy(headers=…)`. A request that the
        policy refuses, or that fails for good, fails the task with ActivityFailedError, caused by HttpRefusedError or
        HttpFailedError. Raises DurableError where the app allows no HTTP, HttpRefusedError for what is no URL, ValueError
        for a method, a header or an interval that is none.
        """
        task: Task[HttpResponse] = feature("http").call(
            self,
            method,
            url,
            content,
            headers=headers,
            enable_polling=enable_polling,
            poll_interval=poll_interval,
            timeout=timeout,
            retry_policy=retry_policy,
            retry_statuses=retry_statuses,
            total_timeout=total_timeout,
            queue=queue,
        )
        return task
