"""The API as OpenAPI 3.1 tells it, made from the table of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from durable.web.access import COOKIE
from durable.web.calls import Operation
from durable.web.roles import Role

VERSION: Final = "1"

PARTS: Final = {
    "id": "The id of the instance or schedule: itself, or `~` and the URL-safe base 64 of its UTF-8 bytes. Answers hold it "
    "as `segment`.",
    "name": "The name, written as an id is.",
    "key": "The key of the entity, written as an id is.",
    "job": "The id of the job within its tree.",
}

REFUSALS: Final = {
    400: "not understood; `error.message` says what, and where",
    401: "nobody is known to ask: no token, or a wrong one",
    403: "not for this role, not for this site (read-only), or a change without the session's CSRF token",
    404: "not there",
    409: "it stands in a way that does not allow this",
    503: "the store does not answer at the moment",
}

ERROR: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            "required": ["code", "message"],
        }
    },
    "required": ["error"],
}


def describe(operations: Iterable[Operation], server: str) -> dict[str, Any]:
    """Return the description of these operations, served below `server`."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": ERROR}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "durable", "version": VERSION, "description": ABOUT},
        "servers": [{"url": server or "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


ABOUT: Final = (
    "Orchestrations: started, looked at and steered. Times are ISO 8601 in UTC. Values are JSON as far as JSON goes; what it "
    "lacks is written as text. A change by a browser's session needs the header X-CSRF-Token, from GET /api/session."
)


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    role = operation.role
    found: dict[str, Any] = {
        "operationId": _identifier(operation),
        "summary": " ".join(operation.summary.split()),
        "description": "For everybody." if role is None else f"For the role {role.name.lower()} and above.",
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query, schemas)],
        "responses": {
            **{str(status): _response(text, operation.media) for status, text in operation.answers.items()},
            **{str(status): _response(text, "application/json", is_error=True) for status, text in REFUSALS.items()},
        },
    }
    if role is None:
        found["security"] = []
    elif role is not Role.VIEWER:
        found["x-role"] = role.name.lower()
    if operation.body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": _schema(operation.body, schemas)}}}
    return found


def _identifier(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.removeprefix("/api"))
    return "_".join([operation.method.lower(), *words])


def _response(text: str, media: str, *, is_error: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": "#/components/schemas/Error"} if is_error else {}
    return {"description": text, "content": {media: {"schema": schema}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": PARTS[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(model: type[BaseModel] | None, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = _of(model, schemas)
    properties: Mapping[str, Any] = schema.get("properties", {})
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": found}
        for name, found in properties.items()
    ]


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schemas[model.__name__] = _of(model, schemas)
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _of(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    return schema
