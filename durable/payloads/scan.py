"""Checks the headers of a msgpack document before anything is built from it.

A few bytes can declare an array of four billion elements, or a hundred thousand lists in one another. Theory: walk the
headers with an explicit stack, never deeper than the limit, and require that every declared length is there. What
passes can be decoded in memory proportional to its size.
"""

from __future__ import annotations

from typing import Final

from durable.payloads.extensions import NESTED
from durable.payloads.refusals import PayloadError

# How many bytes an element with this first byte takes altogether; 0: the table cannot tell.
_FIXED_SIZES: Final = bytes(
    1 if head <= 0x7F or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3)  # small ints, nil, booleans
    else 1 + (head & 0x1F) if 0xA0 <= head <= 0xBF  # short strings
    else {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(head, 0)
    for head in range(256)
)  # fmt: skip

# bin and str: first byte -> width of the length that follows.
_BLOB_WIDTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
# array and map: first byte -> width of the count that follows, elements per count.
_CONTAINER_WIDTHS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
# ext: first byte -> width of the length that follows, or the length itself.
_EXT_WIDTHS: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXT_LENGTHS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}

# Every first byte that can open a container, nested extensions included.
_OPENERS: Final = bytes([*range(0x80, 0xA0), *_CONTAINER_WIDTHS, *_EXT_WIDTHS, *_FIXED_EXT_LENGTHS])

# Unpacking allocates 8 bytes per declared element, before it has seen the elements: 32 MiB at this product.
_CLAIMED_ELEMENTS_MAX: Final = 4 * 1024 * 1024


def check_headers(data: bytes, depth_max: int) -> None:
    """Refuse, with a PayloadError, what is nested deeper than `depth_max` or declares more than is there.

    Most payloads are cleared by counting: with as few bytes that could open a container as there may be levels, no
    nesting can be too deep, and no declared length can add up. Only the others are walked.
    """
    size = len(data)
    if size <= depth_max:
        return
    openers = size - len(data.translate(None, _OPENERS))
    if openers > depth_max or openers * size > _CLAIMED_ELEMENTS_MAX:
        _walk(data, depth_max)


def _walk(data: bytes, depth_max: int) -> None:
    position = 0
    depth = 0
    left = 1  # elements still to come in the open container
    end = len(data)  # of the open container, where that is known: of the document, or of an extension
    outer: list[tuple[int, int, int]] = []  # (left, end, depth) of the containers around it
    fixed_sizes = _FIXED_SIZES
    while True:
        if left == 0:
            if not outer:
                break
            left, outer_end, depth = outer.pop()
            if end != outer_end and position != end:
                raise PayloadError("damaged payload: an extension is longer than its content")
            end = outer_end
            continue
        left -= 1
        if position >= end:
            raise PayloadError("damaged payload: it ends too early")
        head = data[position]
        size = fixed_sizes[head]
        if size:
            position += size
            continue
        position, count, nested_end = _open(data, position, head)
        if count < 0:
            continue
        if count > end - position or nested_end > end:
            raise PayloadError("damaged payload: it declares more elements than it has bytes")
        outer.append((left, end, depth))
        left = count
        if nested_end:
            end = nested_end
        else:
            depth += 1
            if depth > depth_max:
                raise PayloadError(f"the payload is nested deeper than the limit of {depth_max} levels")
    if position != len(data):
        raise PayloadError("damaged payload: it has bytes too few or too many")


def _open(data: bytes, position: int, head: int) -> tuple[int, int, int]:
    """Read a header of variable size. Return the position behind it (and behind its content, if that is opaque), the
    number of elements to read there (-1: none, not a container), and for a nested extension the position of its end.
    """
    position += 1
    if head <= 0x8F:
        return position, 2 * (head & 0x0F), 0
    if head <= 0x9F:
        return position, head & 0x0F, 0
    if head in _BLOB_WIDTHS:
        width = _BLOB_WIDTHS[head]
        return position + width + _number(data, position, width), -1, 0
    if head in _CONTAINER_WIDTHS:
        width, per_count = _CONTAINER_WIDTHS[head]
        return position + width, per_count * _number(data, position, width), 0
    if head in _EXT_WIDTHS:
        width = _EXT_WIDTHS[head]
        length = _number(data, position, width)
        position += width
    elif head in _FIXED_EXT_LENGTHS:
        length = _FIXED_EXT_LENGTHS[head]
    else:
        raise PayloadError("damaged payload: a byte that begins nothing")
    code = _number(data, position, 1)
    position += 1
    if code not in NESTED:
        return position + length, -1, 0
    if not (0x90 <= _number(data, position, 1) <= 0x9F or data[position] in (0xDC, 0xDD)):
        raise PayloadError("damaged payload: a set or tuple without an array in it")
    return position, 1, position + length


def _number(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise PayloadError("damaged payload: it ends too early")
    return int.from_bytes(data[position : position + width], "big")
