"""Rewrites pydantic's schema of a type for values that msgpack has carried.

Neither of pydantic's modes fits here: its strict mode for Python objects refuses the forms of JSON (a dict for a model, an
ISO string for a date), its lax mode turns "7" into 7. Theory: a scalar node becomes strict; a node that has a form in JSON
stays lax behind a gate, which lets through only the type itself and that form. Being lax, a string that becomes a date
counts as less exact than one that stays a string, so that `date | str` keeps strings.

Everything else, validators, constraints, defaults, aliases, unions, is left as its author wrote it.
"""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from typing import TYPE_CHECKING, Any

import msgpack
from pydantic_core import PydanticCustomError, PydanticKnownError, SchemaValidator, core_schema

from durable.payloads.limits import DEPTH_MAX
from durable.payloads.lowering import Lowering, RefusalError, TooDeepError

if TYPE_CHECKING:
    from collections.abc import Callable

    Node = dict[str, Any]

_STRICT = frozenset({"int", "float", "bool", "str", "bytes", "list"})

# What a gated node accepts: the type itself, and its form in JSON.
_ACCEPTED: dict[str, tuple[type, ...]] = {
    "float": (float, int),  # a strict float is also made of a Decimal
    "date": (str, datetime.date),
    "datetime": (str, datetime.datetime),
    "time": (str, datetime.time),
    "timedelta": (str, datetime.timedelta),
    "uuid": (str, uuid.UUID),
    "tuple": (list, tuple),
    "named-tuple": (list, tuple, dict),
    "set": (list, set, frozenset),
    "frozenset": (list, set, frozenset),
    "deque": (list,),
    "generator": (list,),
}

# Not schemas, however they look inside.
_OPAQUE = frozenset(
    {"cls", "computed_fields", "default", "default_factory", "discriminator", "expected", "function", "members", "missing",
     "ref", "schema_ref", "serialization_alias", "type", "validation_alias"}
)  # fmt: skip
# Dropped: what the author set for other callers of the validator, and what serialisation needs.
_DROPPED = frozenset({"strict", "serialization", "metadata"})

_ABSENT = object()


def strict_schema(node: Any) -> Any:
    """Return the schema with every scalar strict and every gate in place. The argument is not changed."""
    if isinstance(node, (list, tuple)):
        return type(node)(map(strict_schema, node))
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if not isinstance(kind, str):  # a table of fields or choices by name
        return {name: strict_schema(part) for name, part in node.items()}
    rewritten = {
        key: part if key in _OPAQUE else _without_strict(part) if key == "config" else strict_schema(part)
        for key, part in node.items()
        if key not in _DROPPED
    }
    if kind in _STRICT:
        rewritten["strict"] = True
    rewrite = _REWRITES.get(kind)
    return rewrite(rewritten) if rewrite else rewritten


def _without_strict(config: Any) -> Any:
    return {key: part for key, part in config.items() if key != "strict"} if isinstance(config, dict) else config


def _gated(node: Node, gate: Callable[[Any], Any]) -> Node:
    """Put a function before a node. A reference to the node must find the gate."""
    outer: Node = {"type": "function-before", "function": {"type": "no-info", "function": gate}, "schema": node}
    if "ref" in node:
        outer["ref"] = node.pop("ref")
    return outer


def _gate_by_type(node: Node) -> Node:
    kind: str = node["type"]
    accepted = frozenset(_ACCEPTED[kind])

    def gate(value: Any) -> Any:
        if type(value) not in accepted:
            raise PydanticCustomError("kind", "Input should be a valid {kind}", {"kind": kind})
        return value

    return _gated(node, gate)


def _gate_date(node: Node) -> Node:
    """Let dates and times through, and those strings that strict JSON takes: lax mode takes a date for a datetime."""
    kind: str = node["type"]
    accepted = frozenset(_ACCEPTED[kind])
    text_validator = SchemaValidator(core_schema.date_schema() if kind == "date" else core_schema.datetime_schema())

    def gate(value: Any) -> Any:
        if type(value) not in accepted:
            raise PydanticCustomError("kind", "Input should be a valid {kind}", {"kind": kind})
        if type(value) is str:
            text_validator.validate_json(json.dumps(value), strict=True)
        return value

    return _gated(node, gate)


def _packed(value: Any) -> bytes | None:
    """Return the payload of a value, so that True, 1 and 1.0 are told apart and a list can be a key."""
    try:
        return bytes(msgpack.packb(Lowering(careful=True).plain(value, DEPTH_MAX)))
    except (RefusalError, TooDeepError):
        return None


def _gate_enum(node: Node) -> Node:
    """Let the value of a member through, but not one that merely equals it, such as True for 1."""
    members: list[enum.Enum] = node["members"]
    by_payload = {_packed(member.value): member for member in members}
    kinds = frozenset(type(member.value) for member in members)
    accepted_kinds = kinds | {int} if float in kinds else kinds
    expected = " or ".join(repr(member.value) for member in members)

    def gate(value: Any) -> Any:
        kind = type(value)
        if kind not in (str, int):  # pydantic finds these by itself, and then prefers a plain str or int in a union
            member = by_payload.get(_packed(value))
            if member is not None:
                return member
        if kind in accepted_kinds or ("missing" in node and kind is not bool):
            return value
        raise PydanticKnownError("enum", {"expected": expected})

    return _gated(node, gate)


def _choose_literal(node: Node) -> Node:
    """Compare literals by type and value: for pydantic True is a `Literal[1]`. Members of enums arrive as values."""
    expected: list[Any] = node["expected"]
    by_payload: dict[bytes | None, Any] = {}
    # plain literals come last, to win over a member with that value
    for literal in sorted(expected, key=lambda literal: not isinstance(literal, enum.Enum)):
        by_payload[_packed(literal)] = literal
    by_text = {literal: literal for literal in expected if type(literal) is str}
    names = " or ".join(map(repr, expected))

    def choose(value: Any) -> Any:
        literal = by_text.get(value, _ABSENT) if type(value) is str else _ABSENT
        if literal is _ABSENT:
            literal = by_payload.get(_packed(value), _ABSENT)
        if literal is _ABSENT:
            raise PydanticKnownError("literal_error", {"expected": names})
        return literal

    chosen: Node = {"type": "function-plain", "function": {"type": "no-info", "function": choose}}
    return {**chosen, "ref": node["ref"]} if "ref" in node else chosen


def _accept_json_form(node: Node) -> Node:
    """Let a type that asks for an instance of itself also be made from its form in JSON."""
    if node["python_schema"]["type"] != "is-instance":
        return node
    choices = [node["python_schema"], node["json_schema"]]
    either: Node = {"type": "union", "mode": "left_to_right", "choices": choices}
    return {**either, "ref": node["ref"]} if "ref" in node else either


def _label_choices(node: Node) -> Node:
    """Name the choices of a union after their types, since the path in an error text shows the names."""
    node["choices"] = [choice if isinstance(choice, tuple) else (choice, _label(choice)) for choice in node["choices"]]
    return node


def _label(node: Node) -> str:
    while str(node["type"]).startswith("function-") and "schema" in node:
        node = node["schema"]
    kind: str = node["type"]
    return getattr(node.get("cls"), "__name__", kind)


_REWRITES: dict[str, Callable[[Node], Node]] = {
    **dict.fromkeys(_ACCEPTED, _gate_by_type),
    "date": _gate_date,
    "datetime": _gate_date,
    "enum": _gate_enum,
    "literal": _choose_literal,
    "json-or-python": _accept_json_form,
    "union": _label_choices,
}
