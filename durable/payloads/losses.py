"""Finds what a value would lose on its way to the receiver.

A dataclass or model travels as a dict and is made again by the receiver's annotation. If that names a base class, a `dict`
with fixed keys or another class that happens to fit, fields disappear without any error. So the sender reads its own
payload as the receiver will, and walks both values side by side.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from durable.payloads.lowering import SCALARS
from durable.payloads.records import extra_fields, plan_of
from durable.payloads.refusals import quoted

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from durable.payloads.records import RecordPlan


class Loss(NamedTuple):
    """Where something is lost, and what."""

    path: str
    reason: str


def find_loss(given: Any, arrived: Any, path: str = "") -> Loss | None:
    """Return the first loss, None if nothing is lost.

    Only dataclasses, models and enums are looked at: the other types arrive as their annotation has it, by its rules.
    """
    kind = type(given)
    if kind in SCALARS:
        return None
    plan = plan_of(kind)
    if plan is not None:
        return _loss_of_record(given, arrived, plan, path)
    if isinstance(given, enum.Enum):
        if isinstance(arrived, enum.Enum) and type(arrived) is not kind:
            return Loss(path, f"{kind.__qualname__} would arrive as {type(arrived).__qualname__}")
        return None
    if isinstance(given, (list, tuple)) and isinstance(arrived, (list, tuple)):
        for index, pair in enumerate(zip(given, arrived, strict=False)):
            if loss := find_loss(*pair, f"{path}[{index}]"):
                return loss
        return None
    if isinstance(given, (set, frozenset)) and isinstance(arrived, (set, frozenset)):
        return _loss_in_set(given, arrived, path)
    return _loss_in_dict(given, arrived, path) if isinstance(given, dict) else None


def _loss_of_record(given: Any, arrived: Any, plan: RecordPlan, path: str) -> Loss | None:
    kind, other = type(given), type(arrived)
    if plan.wrapper:
        return find_loss(given.root, arrived.root if other is kind else arrived, path)
    if other is not kind:
        left = _readable(arrived)
        missing = set() if left is None else _written(given) - left
        if missing:
            return Loss(path, f"the fields {', '.join(sorted(missing))} of {kind.__qualname__} would be lost")
        if isinstance(arrived, dict):
            return None
        if not _stands_for(kind, other):
            return Loss(path, f"{kind.__qualname__} would arrive as {other.__qualname__}")
    for attribute in plan.unwritten:
        if getattr(given, attribute, None) != getattr(arrived, attribute, None):
            return Loss(f"{path}.{attribute}", "the constructor does not take it, so it would be lost")
    for attribute in plan.keys:
        part = getattr(given, attribute)
        if type(part) in SCALARS:
            continue
        if loss := find_loss(part, getattr(arrived, attribute, None), f"{path}.{attribute}"):
            return loss
    return None


def _loss_in_set(given: AbstractSet[Any], arrived: AbstractSet[Any], path: str) -> Loss | None:
    """Compare the classes only: which element became which is not to be known."""
    kinds = {type(element) for element in given}
    others = {type(element) for element in arrived}
    changed = [kind.__qualname__ for kind in kinds - others if plan_of(kind) is not None]
    return Loss(path, f"in a set, {changed[0]} would arrive as another class") if changed else None


def _loss_in_dict(given: dict[Any, Any], arrived: Any, path: str) -> Loss | None:
    """Compare a dict with a dict, or with the record that an annotation made of it."""
    plan = plan_of(type(arrived))
    if plan is not None and not plan.wrapper:
        parts = {key: getattr(arrived, attribute, None) for attribute, key in plan.keys.items()} | extra_fields(arrived)
    elif isinstance(arrived, dict):
        parts = arrived
    else:
        return None
    for key, element in given.items():
        if key in parts and (loss := find_loss(element, parts[key], f"{path}[{quoted(key)}]")):
            return loss
    return None


def _written(record: Any) -> set[str]:
    plan = plan_of(type(record))
    return {*plan.keys.values(), *extra_fields(record)} if plan else set()


def _readable(arrived: Any) -> set[str] | None:
    """Return the keys that are left of a record, None if what arrived is nothing that has keys."""
    if isinstance(arrived, dict):
        return set(arrived)
    return None if plan_of(type(arrived)) is None else _written(arrived)


def _stands_for(given: type, arrived: type) -> bool:
    """Tell whether a class arrives as itself, as a base of it, or as a parametrized form of the same generic model."""
    return issubclass(given, arrived) or _generic_origin(given) is _generic_origin(arrived)


def _generic_origin(kind: Any) -> Any:
    metadata = getattr(kind, "__pydantic_generic_metadata__", None) or {}
    return metadata.get("origin") or kind
