"""How dataclasses and pydantic models are written: which attributes, under which keys.

A key is the one that validation reads: the alias of a field that has one, else its name. Pydantic is looked at only if
the program has imported it, since there are no models otherwise.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any

# Classes made at run time would fill a cache for ever; after so many it starts anew.
CACHED_CLASSES_MAX = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class RecordPlan:
    """The form of one class. `keys` maps attributes to the keys they are written under, in the order of the fields.

    `unwritten` are attributes that the constructor does not take, so that they cannot arrive. A `wrapper` (pydantic's
    RootModel) is written as its one value. `open` models hold further fields of their own.
    """

    keys: dict[str, str]
    unwritten: tuple[str, ...] = ()
    wrapper: bool = False
    open: bool = False


_PLANS: dict[type, RecordPlan | None] = {}


def plan_of(kind: type) -> RecordPlan | None:
    """Return the plan of a dataclass or model, None for any other class."""
    if kind not in _PLANS:
        if len(_PLANS) >= CACHED_CLASSES_MAX:
            _PLANS.clear()
        _PLANS[kind] = _make_plan(kind)
    return _PLANS[kind]


def extra_fields(record: Any) -> dict[str, Any]:
    """Return what an open model holds beyond its declared fields."""
    return getattr(record, "__pydantic_extra__", None) or {}


def _make_plan(kind: type) -> RecordPlan | None:
    if dataclasses.is_dataclass(kind):
        return _plan_of_dataclass(kind)
    if _is_model(kind):
        return _plan_of_model(kind)
    return None


def _is_model(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _plan_of_model(kind: Any) -> RecordPlan:
    by_alias = kind.model_config.get("validate_by_alias", True)
    keys = {
        # `exclude` is the author's word that a field is not for writing: a secret, or a live object
        name: (_alias_of(info) if by_alias else None) or name
        for name, info in kind.model_fields.items()
        if info.exclude is not True
    }
    wrapper = bool(getattr(kind, "__pydantic_root_model__", False))
    return RecordPlan(keys, wrapper=wrapper, open=kind.model_config.get("extra") == "allow")


def _plan_of_dataclass(kind: Any) -> RecordPlan:
    aliases = _dataclass_aliases(kind)
    fields = dataclasses.fields(kind)
    return RecordPlan(
        keys={field.name: aliases.get(field.name, field.name) for field in fields if field.init},
        unwritten=tuple(field.name for field in fields if not field.init),
    )


def _dataclass_aliases(kind: Any) -> dict[str, str]:
    """Find aliases: pydantic's own dataclasses list their fields, standard ones carry them in `Annotated`."""
    if "pydantic" not in sys.modules:
        return {}
    infos: dict[str, Any] = getattr(kind, "__pydantic_fields__", {})
    if not infos:
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except Exception:  # noqa: BLE001  # what cannot be resolved here may still be where it is validated
            return {}
        infos = {name: note for name, hint in hints.items() for note in getattr(hint, "__metadata__", ())}
    return {name: alias for name, info in infos.items() if (alias := _alias_of(info))}


def _alias_of(info: Any) -> str | None:
    """Return the alias under which pydantic reads a field, where it is a plain name."""
    alias = getattr(info, "validation_alias", None) or getattr(info, "alias", None)
    choices = getattr(alias, "choices", (alias,))
    return next((choice for choice in choices if isinstance(choice, str)), None)
