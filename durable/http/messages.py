"""Requests and responses, as they are recorded in a history. No representation shows a header's value or a body."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class HttpRequest:
    """One request, as the activity gets it. `failing`: statuses that count as a failed attempt."""

    method: str
    url: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    body: bytes | None = dataclasses.field(default=None, repr=False)
    failing: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class HttpResponse:
    """A response: its status, its headers by name in lower case, its body, and the URL that it came from in the end.

    `Set-Cookie` is left out. `retry_after`: seconds, if the server has named a time.
    """

    status: int
    url: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    body: bytes = dataclasses.field(default=b"", repr=False)
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """True for a status from 200 to 299."""
        return 200 <= self.status < 300

    def text(self) -> str:
        """Return the body as text, by the charset that the server has named, else UTF-8. Raises LookupError, ValueError."""
        _, _, named = self.headers.get("content-type", "").partition("charset=")
        return self.body.decode(named.partition(";")[0].strip(" \"'") or "utf-8")

    def json(self) -> Any:
        """Return the body, read as JSON. Raises ValueError for what is none."""
        return json.loads(self.body)
