"""The state of an entity: objects of its class, and their stored form.

The state of a pydantic model or a dataclass is its fields. That of any other class is its annotated fields, which have
defaults; it is stored as a dict by their names. So a class may gain a field (which gets its default) and lose one (which is
forgotten) while entities live; a stored value that does not fit its field any more is refused with a reason.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
import typing
from typing import Any, ClassVar, Final

import typing_extensions

from durable import payloads
from durable.signatures import Scope

_UNCHANGEABLE: Final = (str, bytes, int, float, bool, type(None))
"""A default of one of these cannot be changed by the object that gets it."""

_MISSING: Final = object()


class StateForm:
    """How objects of one class are made, stored and made again."""

    def __init__(self, cls: type, name: str) -> None:
        """Read a class. Raises TypeError for one of which no object can be made without arguments."""
        self._cls: Any = cls
        self._what = f"state of entity '{name}'"
        self._scopes = [(base, Scope.of_class(base)) for base in cls.__mro__ if inspect.get_annotations(base)]
        self._check()

    def fresh(self) -> Any:
        """Return the object that an entity without a state begins with. Raises what the class raises."""
        made = self._cls()
        if not self._is_record:
            self._set_defaults(made)
        return made

    def decode(self, plain: bytes) -> Any:
        """Return the object of a stored state. Raises PayloadError for one that today's class cannot take."""
        if self._is_record:
            return payloads.decode(plain, self._cls, what=self._what)
        values = payloads.decode(plain, self._fields_as_dict, what=self._what)
        made = self.fresh()
        for field, value in values.items():
            setattr(made, field, value)
        return made

    def encode(self, made: Any) -> bytes | None:
        """Return the stored form of an object; None for a class without any field, which has no state to store.

        Raises TypeError for an attribute that would not be kept, and what `payloads.check` raises.
        """
        self._refuse_unknown(made)
        if self._is_record:
            return payloads.check(made, self._cls, what=self._what) if self._fields else None
        values = {field: getattr(made, field) for field in self._fields}
        return payloads.check(values, self._fields_as_dict, what=self._what) if values else None

    # ---- the class

    @property
    def _is_record(self) -> bool:
        """Whether the class says itself how its objects are made: known only when all its decorators have run."""
        return dataclasses.is_dataclass(self._cls) or self._is_model

    @property
    def _is_model(self) -> bool:
        pydantic = sys.modules.get("pydantic")
        return pydantic is not None and issubclass(self._cls, pydantic.BaseModel)

    @functools.cached_property
    def _fields(self) -> tuple[str, ...]:
        if self._is_model:
            return tuple(self._cls.model_fields)
        if self._is_record:
            return tuple(field.name for field in dataclasses.fields(self._cls))
        return tuple(self._annotations)

    @functools.cached_property
    def _annotations(self) -> dict[str, Any]:
        """The annotated fields of a plain class, base classes first. One that cannot be resolved takes any value."""
        found: dict[str, Any] = {}
        for base, scope in reversed(self._scopes):
            for field, annotation in inspect.get_annotations(base).items():
                try:
                    found[field] = scope.resolve(annotation)
                except Exception:  # noqa: BLE001 (an annotation is the user's code and may raise anything)
                    found[field] = Any
        return {field: kind for field, kind in found.items() if not _is_of_class(kind)}

    @functools.cached_property
    def _fields_as_dict(self) -> Any:
        make: Any = typing_extensions.TypedDict  # Any, because the type checker knows TypedDict as a keyword only
        return make(self._cls.__name__, self._annotations, total=False)

    def _check(self) -> None:
        """Refuse a class whose objects need arguments."""
        where = f"entity '{self._cls.__qualname__}' ({self._cls.__module__})"
        if inspect.isabstract(self._cls):
            raise TypeError(f"{where} is abstract: no object can be made of it")
        if not self._is_record and "__init__" not in self._own_names():
            for field in self._raw_fields():
                if not hasattr(self._cls, field):
                    raise TypeError(
                        f"{where}: its field '{field}' has no default, which an entity begins with: add one"
                    )
            return
        try:
            inspect.signature(self._cls).bind()
        except TypeError as error:
            raise TypeError(f"{where} cannot be made without arguments, as an entity begins: {error}") from None

    def _raw_fields(self) -> list[str]:
        fields = (field for base, _ in self._scopes for field in inspect.get_annotations(base).items())
        return [field for field, annotation in fields if "ClassVar" not in str(annotation)]

    def _own_names(self) -> set[str]:
        return {name for base in self._cls.__mro__[:-1] for name in vars(base)}

    def _set_defaults(self, made: Any) -> None:
        for field in self._fields:
            if field in vars(made):
                continue
            default = getattr(made, field, _MISSING)
            if default is _MISSING:
                raise TypeError(f"{self._what}: its field '{field}' has no default, and __init__ does not set it")
            # Its own copy: a list of the class that one entity appends to would be that of all.
            setattr(made, field, default if isinstance(default, _UNCHANGEABLE) else copy.deepcopy(default))

    def _refuse_unknown(self, made: Any) -> None:
        """Refuse an attribute that is no field: it would be gone with the next operation, and nobody would know why."""
        for name in getattr(made, "__dict__", ()):
            if name in self._fields or isinstance(getattr(self._cls, name, None), functools.cached_property):
                continue
            raise TypeError(
                f"{self._what}: attribute '{name}' is no field of the class and would not be kept: annotate it in the class, "
                f"as `{name}: … = …`"
            )


def _is_of_class(annotation: Any) -> bool:
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar
