"""Encoding and decoding: values to bytes by their own type, bytes to values by the receiver's annotation."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack

from durable.errors import InvalidInputError, LimitExceededError
from durable.payloads.extensions import unpack_plain
from durable.payloads.fitting import ANY, shape_of
from durable.payloads.limits import DEPTH_MAX, PAYLOAD_BYTES_MAX
from durable.payloads.losses import find_loss
from durable.payloads.lowering import SCALARS, TEXT, Lowering, RefusalError, TooDeepError
from durable.payloads.refusals import EncodingError, MisfitError, PayloadError, UnstorableInputError, located, reason_of
from durable.payloads.scan import check_headers
from durable.payloads.spelling import SPELLER, same, spell_whole


def encode(
    value: Any,
    annotation: Any = ANY,
    *,
    what: str = "value",
    max_bytes: int = PAYLOAD_BYTES_MAX,
    max_depth: int = DEPTH_MAX,
) -> bytes:
    """Return the plaintext payload of a value.

    A value is encoded by its own type. With an annotation, the payload is known to fit it and to lose nothing by it.
    `what` names the value in error texts. Raises EncodingError (a TypeError) with the path for what cannot be stored,
    LimitExceededError for what is too large or too deep, and, with an annotation, MisfitError.
    """
    shape = shape_of(annotation)
    if type(value) is shape.scalar and max_depth > 0:  # as most are: no more is asked than msgpack asks
        try:
            packed: bytes = msgpack.packb(value)
            if len(packed) <= max_bytes:
                return packed
        except (OverflowError, UnicodeEncodeError):
            pass  # `_encode` says why
    if shape.matches(value):
        return _within(max_bytes, _encode(value, what, max_depth), what)
    try:
        data = _within(max_bytes, _encode(value, what, max_depth), what)
        arrived = shape.validate(unpack_plain(data), what)
    except EncodingError as refused:
        data, arrived = _encode_spelled(value, annotation, what, max_depth, refused)
        _within(max_bytes, data, what)
    _refuse_loss(value, arrived, what)
    return data


def decode(data: bytes, annotation: Any = ANY, *, what: str = "value", strict_size: bool = True) -> Any:
    """Return the value of a plaintext payload, made by the annotation if there is one.

    `strict_size=False` reads payloads over the size limit, which were accepted under another one. Raises PayloadError,
    and nothing else, for whatever bytes; its subclass MisfitError for a readable value that does not fit.
    """
    if strict_size and len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadError(f"{what}: a payload of {len(data)} bytes, over the limit of {PAYLOAD_BYTES_MAX} bytes")
    try:
        if len(data) > DEPTH_MAX:  # it takes a byte for each level
            check_headers(data, DEPTH_MAX)
        value = unpack_plain(data)
    except Exception as error:  # many kinds, by what is wrong with the bytes; also what constructors of dates raise
        raise PayloadError(f"{what}: cannot be read: {reason_of(error)}") from error
    if annotation is ANY:
        return value
    shape = shape_of(annotation)
    return value if type(value) is shape.scalar or shape.matches(value) else shape.validate(value, what)


def check(value: Any, annotation: Any = ANY, *, what: str = "input") -> bytes:
    """Return the payload of an input for a function whose annotation is at hand.

    Raises InvalidInputError, with the path and the reason, for a value that would not arrive there or would lose
    something; if it cannot be stored at all the error is a TypeError as well. Raises LimitExceededError as `encode` does.
    """
    try:
        return encode(value, annotation, what=what)
    except EncodingError as error:
        raise UnstorableInputError(str(error)) from None
    except MisfitError as error:
        raise InvalidInputError(str(error)) from None


def digest(plain: bytes) -> bytes:
    """Return 8 bytes that tell payloads apart: what replay compares instead of values."""
    return hashlib.blake2b(plain, digest_size=8).digest()


def _encode(value: Any, what: str, max_depth: int) -> bytes:
    """Encode by the value's own type. Flat values of plain scalars, which most are, go to msgpack at once."""
    kind = type(value)
    flat = (
        kind in SCALARS
        or (kind is dict and TEXT.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values())))
        or (kind is list and SCALARS.issuperset(map(type, value)))
    )
    if flat and max_depth > 0:
        try:
            return msgpack.packb(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # an int beyond 64 bits, or a str that is no text: the careful pass below
    return _encode_nested(value, what, max_depth)


def _encode_nested(value: Any, what: str, max_depth: int) -> bytes:
    try:
        try:
            return msgpack.packb(Lowering(speller=SPELLER).plain(value, max_depth))
        except (OverflowError, UnicodeEncodeError):
            return msgpack.packb(Lowering(careful=True, speller=SPELLER).plain(value, max_depth))
    except RefusalError as refusal:
        raise EncodingError(located(what, refusal.path, refusal.reason)) from None
    except (TooDeepError, RecursionError):
        raise LimitExceededError(
            f"{what}: nested deeper than the limit of {max_depth} levels, or it contains itself"
        ) from None
    except Exception as error:  # code of the value's own class, a property or an iterator
        raise EncodingError(f"{what}: cannot be stored, reading it raised {reason_of(error)}") from error


def _within(max_bytes: int, data: bytes, what: str) -> bytes:
    if len(data) > max_bytes:
        raise LimitExceededError(
            f"{what}: {len(data)} bytes encoded, over the limit of {max_bytes} bytes for a payload"
        )
    return data


def _refuse_loss(value: Any, arrived: Any, what: str) -> None:
    try:
        loss = find_loss(value, arrived)
    except Exception as error:  # code of the value's own class, a property or a comparison
        raise EncodingError(f"{what}: cannot be compared with what would arrive: {reason_of(error)}") from error
    if loss is not None:
        raise MisfitError(located(what, *loss))


def _encode_spelled(
    value: Any, annotation: Any, what: str, max_depth: int, refused: EncodingError
) -> tuple[bytes, Any]:
    """Encode a value that only its annotation can write. Raises the first refusal if it does not come back equal."""
    try:
        data = _encode(spell_whole(value, annotation), what, max_depth)
        arrived = shape_of(annotation).validate(unpack_plain(data), what)
        if same(value, arrived):
            return data, arrived
    except LimitExceededError:
        raise
    except Exception:  # noqa: BLE001  # whatever a user's serializer, validator or comparison raises
        raise refused from None
    raise refused
