"""Validation by pydantic, for the annotations that are not plain. The only module that needs pydantic to be imported."""

from __future__ import annotations

import sys
from typing import Any

import pydantic
from pydantic_core import ErrorDetails, SchemaValidator

from durable.payloads.refusals import REASON_CHARACTERS_MAX, MisfitError, brief, located, reason_of, shorten
from durable.payloads.strictness import strict_schema
from durable.payloads.typed_dicts import with_readable_typed_dicts

# An error text shows this many of the places that do not fit.
MISFITS_SHOWN_MAX = 3

# What pydantic puts before the text of an error that the user's own validator raised.
_RAISED = {"value_error": "Value error, ", "assertion_error": "Assertion failed, "}


class Validation:
    """Pydantic's adapter and our validator for one annotation, made at the first use: a name in it may be defined late."""

    __slots__ = ("_adapter", "_annotation", "_validator")

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._adapter: pydantic.TypeAdapter[Any] | None = None
        self._validator: SchemaValidator | None = None

    def validate(self, value: Any, what: str) -> Any:
        """Return what the annotation makes of a value that was carried. Raises MisfitError."""
        validator = self._validator or self.build(what)
        try:
            return validator.validate_python(value)
        except Exception as error:  # noqa: BLE001  # also what a user's own validator raises
            raise MisfitError(_misfits(error, what)) from None

    def spell(self, value: Any, *, field: str | None = None) -> Any:
        """Return a value, or one field of it, as pydantic writes it for JSON. Raises whatever a serializer raises."""
        adapter = self._adapter or self._build_adapter("value")
        if field is None:
            return adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings=False)
        return adapter.dump_python(
            value, mode="json", include={field}, by_alias=False, round_trip=True, warnings=False
        )[field]

    def build(self, what: str) -> SchemaValidator:
        """Make the validator. Raises MisfitError for an annotation that no value can be validated by."""
        schema = (self._adapter or self._build_adapter(what)).core_schema
        # Not prebuilt: else pydantic takes the validator of a model's class for models inside of it, which is not strict.
        self._validator = SchemaValidator(strict_schema(schema), _use_prebuilt=False)
        return self._validator

    def _build_adapter(self, what: str) -> pydantic.TypeAdapter[Any]:
        annotation = self._annotation
        try:
            if sys.version_info < (3, 12):
                annotation = with_readable_typed_dicts(annotation)
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
            if not isinstance(adapter.core_schema, dict):  # put off by the author, until all its names are defined
                adapter.rebuild(force=True)
        except Exception as error:  # pydantic has several, and annotations may bring code of their own
            raise MisfitError(f"{what}: its annotation {annotation!r} cannot be used: {reason_of(error)}") from error
        self._adapter = adapter
        return adapter


def _misfits(error: Exception, what: str) -> str:
    """Say what does not fit and where, in pydantic's words but without its links."""
    if not isinstance(error, pydantic.ValidationError):
        return f"{what}: its validation raised {reason_of(error)}"
    try:
        details = error.errors(include_url=False, include_context=False)
    except Exception as failure:  # noqa: BLE001  # a user's own message template that cannot be filled in
        return f"{what}: does not fit, and the reason cannot be shown: {reason_of(failure)}"
    shown = [_misfit(detail, what if index == 0 else "") for index, detail in enumerate(details[:MISFITS_SHOWN_MAX])]
    if len(details) > MISFITS_SHOWN_MAX:
        shown.append(f"and {len(details) - MISFITS_SHOWN_MAX} more")
    return "; ".join(shown)


def _misfit(detail: ErrorDetails, what: str) -> str:
    """Say one place and what is wrong there. The value itself is named only briefly: it may be long, or nobody's business."""
    reason = shorten(detail["msg"], REASON_CHARACTERS_MAX)
    if detail["type"] in _RAISED:
        reason = reason.removeprefix(_RAISED[detail["type"]])
    else:
        reason = reason.removeprefix("Input ")  # the place, which stands before, says as much
        reason = reason[:1].lower() + reason[1:]
    if not detail["type"].startswith("missing"):  # there the input is what lacks it
        reason = f"{reason}, got {brief(detail['input'])}"
    return located(what, _path(detail["loc"]), reason).removeprefix(": ")


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{shorten(step, 60)}" for step in location)
