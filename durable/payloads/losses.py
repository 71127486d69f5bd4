"""Finds what a value would lose on its way to the receiver.

A dataclass or model travels as a dict and is made again by the receiver's annotation. If that names a base class, a `dict`
with fixed keys or another class that happens to fit, fields disappear without any error. So the sender reads its own
payload as the receiver will, and walks both values side by side.
"""

from __future__ import annotations

import enum
from typing import Any

from durable.payloads.records import extra_fields, plan_of


def find_loss(given: Any, arrived: Any, path: str = "") -> str | None:
    """Return the path and the reason of the first loss, None if nothing is lost.

    Only dataclasses, models and enums are looked at: the other types arrive as their annotation has it, by its rules.
    """
    plan = plan_of(type(given))
    if plan is not None:
        return _loss_of_record(given, arrived, path)
    if isinstance(given, enum.Enum):
        if isinstance(arrived, enum.Enum) and type(arrived) is not type(given):
            return f"{path}: a {type(given).__qualname__} would arrive as a {type(arrived).__qualname__}"
        return None
    if isinstance(given, (list, tuple)) and isinstance(arrived, (list, tuple)):
        for index, pair in enumerate(zip(given, arrived, strict=False)):
            if loss := find_loss(*pair, f"{path}[{index}]"):
                return loss
        return None
    return _loss_in_dict(given, arrived, path) if isinstance(given, dict) else None


def _loss_of_record(given: Any, arrived: Any, path: str) -> str | None:
    plan = plan_of(type(given))
    assert plan is not None
    if plan.wrapper:
        same = type(arrived) is type(given)
        return find_loss(given.root, arrived.root if same else arrived, path)
    missing = _written(given) - _readable(arrived)
    if _readable(arrived) and missing:
        return f"{path}: the fields {', '.join(sorted(missing))} of {type(given).__qualname__} would be lost"
    if isinstance(arrived, dict):
        return None
    if not _stands_for(type(given), type(arrived)):
        return f"{path}: a {type(given).__qualname__} would arrive as a {type(arrived).__qualname__}"
    for attribute in plan.unwritten:
        if getattr(given, attribute, None) != getattr(arrived, attribute, None):
            return f"{path}.{attribute}: the constructor does not take it, so it would be lost"
    for attribute in plan.keys:
        if loss := find_loss(getattr(given, attribute), getattr(arrived, attribute, None), f"{path}.{attribute}"):
            return loss
    return None


def _loss_in_dict(given: dict[Any, Any], arrived: Any, path: str) -> str | None:
    """Compare a dict with a dict, or with the record that an annotation made of it."""
    plan = plan_of(type(arrived))
    if plan is not None and not plan.wrapper:
        parts = {key: getattr(arrived, attribute, None) for attribute, key in plan.keys.items()} | extra_fields(arrived)
    elif isinstance(arrived, dict):
        parts = arrived
    else:
        return None
    for key, element in given.items():
        if key in parts and (loss := find_loss(element, parts[key], f"{path}[{key!r}]")):
            return loss
    return None


def _written(record: Any) -> set[str]:
    plan = plan_of(type(record))
    return {*plan.keys.values(), *extra_fields(record)} if plan else set()


def _readable(arrived: Any) -> set[str]:
    """Return the keys that are left of a record; nothing if what arrived has none."""
    return set(arrived) if isinstance(arrived, dict) else _written(arrived)


def _stands_for(given: type, arrived: type) -> bool:
    """Tell whether a class arrives as itself, as a base of it, or as a parametrized form of the same generic model."""
    return issubclass(given, arrived) or _generic_origin(given) is _generic_origin(arrived)


def _generic_origin(kind: Any) -> Any:
    metadata = getattr(kind, "__pydantic_generic_metadata__", None) or {}
    return metadata.get("origin") or kind
