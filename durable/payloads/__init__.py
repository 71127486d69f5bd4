"""The edge: what users pass and return, as bytes.

`encode` and `check` make a payload of a value, `decode` makes the value again; between them everything is opaque bytes.
A value is encoded by its own type (`lowering`, `records`, `extensions`) and made again by the receiver's annotation
(`fitting`, `strictness`); a sender that knows the annotation finds out beforehand what would not arrive (`losses`). Bytes
are checked before they are decoded (`scan`). A `Sealer` wraps payloads for the store (`sealing`).

No pickle, no eval, no import by a stored name.
"""

from durable.payloads.fitting import ANY, prepare
from durable.payloads.limits import DEPTH_MAX, PAYLOAD_BYTES_MAX
from durable.payloads.refusals import EncodingError, MisfitError, PayloadError, UnknownCodecError, UnstorableInputError
from durable.payloads.sealing import OUTSIDE_MARK, Codec, Compression, Sealer, is_sealed, lies_outside
from durable.payloads.values import check, decode, digest, encode

__all__ = [
    "ANY",
    "DEPTH_MAX",
    "OUTSIDE_MARK",
    "PAYLOAD_BYTES_MAX",
    "Codec",
    "Compression",
    "EncodingError",
    "MisfitError",
    "PayloadError",
    "Sealer",
    "UnknownCodecError",
    "UnstorableInputError",
    "check",
    "decode",
    "digest",
    "encode",
    "is_sealed",
    "lies_outside",
    "prepare",
]
