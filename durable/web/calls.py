"""One request to the API: who asks, what came along, checked; and the table that says what there is.

The table of operations is the only list of routes: the router, the permissions, the description in OpenAPI and the tests are
all made from it. What is not in the table is not there.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from durable.client import Client
from durable.client.connection import Connection
from durable.events import InstanceKey
from durable.ids import check_instance_id
from durable.web.access import Access, Identity
from durable.web.roles import Principal, Role
from durable.web.shown import PREVIEW_BYTES, View, as_json
from durable.web.site import Site

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""A payload may have 2 MiB, and JSON writes some of it longer."""

KINDS: Final = ("o", "e", "s")
"""Orchestrations and job trees, entities, schedules."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9_@:][A-Za-z0-9_@:.-]*")


class Refusal(Exception):  # noqa: N818 (it is an answer, not an error)
    """An answer other than the one asked for: its status, a word for programs, and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class Fields(BaseModel):
    """What comes along with a call; anything that is not named is refused."""

    model_config = ConfigDict(extra="forbid", str_max_length=BODY_BYTES_MAX)


M = TypeVar("M", bound=BaseModel)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return plain data as a JSON answer that nobody keeps."""
    return Response(as_json(content), status, dict(headers or {}), media_type="application/json")


def segment(instance_id: str) -> str:
    """Return an id as a part of a path: itself where that is safe, else `~` and its bytes in URL-safe base 64.

    An id may be `..` or hold a slash, which browsers and proxies take for something else, however they are escaped.
    """
    if _PLAIN_ID.fullmatch(instance_id):
        return instance_id
    return "~" + base64.urlsafe_b64encode(instance_id.encode()).decode().rstrip("=")


def unsegment(part: str) -> str:
    """Return the id that a part of a path means. Raises Refusal for none."""
    if not part.startswith("~"):
        return part
    try:
        data = base64.b64decode(part[1:] + "=" * (-(len(part) - 1) % 4), altchars=b"-_", validate=True)
        return data.decode()
    except (binascii.Error, ValueError):
        raise Refusal(400, "bad_id", "behind ~ an id is written as URL-safe base 64 of its UTF-8 bytes") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A request that may be answered: its caller is known and may do this."""

    request: Request
    site: Site
    access: Access
    identity: Identity | None

    @property
    def principal(self) -> Principal:
        """Who asks. Only public operations are called by nobody, and they do not ask."""
        assert self.identity is not None, "an operation with a role is called by somebody"
        return self.identity.principal

    async def client(self) -> Client:
        """Return the open client."""
        return await self.site.client()

    async def connection(self) -> Connection:
        """Return the open hub."""
        return await self.site.connection()

    def view(self, bytes_max: int | None = PREVIEW_BYTES) -> View:
        """Return how much the caller sees."""
        return View(self.principal.role >= self.site.options.payload_role, bytes_max)

    def path(self, *parts: str) -> str:
        """Return a path of the API below where it is mounted."""
        root: str = self.request.scope.get("root_path", "")
        return root.rstrip("/") + "/api/" + "/".join(parts)

    def id(self, name: str = "id") -> str:
        """Return an id of the path, checked. Raises Refusal, InvalidInputError."""
        return check_instance_id(unsegment(self.request.path_params[name]))

    def key(self, kind: str = "o") -> InstanceKey:
        """Return the key of the instance in the path."""
        return InstanceKey(self.id(), kind)

    def query(self, model: type[M]) -> M:
        """Return the query parameters. Raises Refusal for those that are not known, doubled or no value."""
        found: dict[str, Any] = {}
        given = self.request.query_params
        for name in given:
            field = model.model_fields.get(name)
            values = given.getlist(name)
            if field is not None and get_origin(field.annotation) is list:
                found[name] = values
            elif len(values) > 1:
                raise Refusal(400, "bad_query", f"{name:.60} is given more than once")
            else:
                found[name] = values[0]
        return _checked(model, found, "query")

    async def body(self, model: type[M]) -> M:
        """Return the body. Raises Refusal for one that is too large, no JSON, or not what is asked for."""
        data = bytearray()
        try:
            async for part in self.request.stream():
                data += part
                if len(data) > BODY_BYTES_MAX:
                    raise Refusal(413, "too_large", f"a body has at most {BODY_BYTES_MAX} bytes")
        except ClientDisconnect:
            raise Refusal(400, "cut_off", "the body was cut off") from None
        try:
            return model.model_validate_json(bytes(data) or b"{}")
        except ValidationError as error:
            raise _refusal(error, "body") from None


def _checked(model: type[M], values: Mapping[str, Any], what: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, what) from None


def _refusal(error: ValidationError, what: str) -> Refusal:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or what
    return Refusal(400, f"bad_{what}", f"{what}: {where[:200]}: {first['msg'][:300]}")


Handler = Callable[[Call], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One line of the table. `role` None: for everybody, known or not; `changes`: not where the site is read-only."""

    method: str
    path: str
    role: Role | None
    handler: Handler
    summary: str
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    answers: Mapping[int, str] = dataclasses.field(default_factory=lambda: {200: "as asked for"})
    changes: bool = False
    media: str = "application/json"
