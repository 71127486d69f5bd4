"""AES-GCM for the codec chain; needs the extra `encryption`: pip install 'durable-orchestration[encryption]'."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from durable.payloads import PayloadError, UnknownCodecError

NONCE_BYTES = 12
"""96 random bits, as NIST SP 800-38D has it: at most 2³² messages under one key, see `docs/encryption.md`."""

KEY_ID_BYTES_MAX = 255
"""Its length stands in one byte."""


class AesGcm:
    """Encrypts with AES-GCM and a random nonce. What it returns names the key, which is authenticated with it:

    length of the key id | key id | nonce | ciphertext with its tag
    """

    id = 2

    def __init__(self, keys: Mapping[str, bytes], *, current: str | None = None) -> None:
        """Take keys of 16, 24 or 32 bytes, by their ids. `current` encrypts; None: the last one. The others only decrypt.

        Raises ValueError for no key, a key of another size, an empty or too long id, or a `current` that is none of them.
        """
        if not keys:
            raise ValueError("AesGcm takes at least one key, by its id: AesGcm({'2026': key})")
        for key_id in keys:
            if not 0 < len(key_id.encode()) <= KEY_ID_BYTES_MAX:
                raise ValueError(f"a key's id is 1 to {KEY_ID_BYTES_MAX} bytes long, not {key_id!r:.60}")
        self._keys = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        chosen = list(keys)[-1] if current is None else current
        if chosen not in keys:
            raise ValueError(f"current={chosen!r} is the id of none of the keys: {', '.join(map(repr, keys))}")
        self._current = chosen.encode()

    def encode(self, data: bytes, /) -> bytes:
        """Return the data encrypted with the current key."""
        head = bytes([len(self._current)]) + self._current
        nonce = os.urandom(NONCE_BYTES)
        return head + nonce + self._keys[self._current].encrypt(nonce, data, head)

    def decode(self, data: bytes, /) -> bytes:
        """Return the data. Raises UnknownCodecError for a key that is not here, PayloadError for what was changed."""
        size = 1 + data[0] if data else 0
        head, nonce, body = data[:size], data[size : size + NONCE_BYTES], data[size + NONCE_BYTES :]
        if len(nonce) != NONCE_BYTES:
            raise PayloadError("damaged payload: what was encrypted ends too early")
        key = self._keys.get(head[1:])
        if key is None:
            raise UnknownCodecError(f"it was encrypted with the key {head[1:].decode(errors='replace')!r}")
        try:
            return key.decrypt(nonce, body, head)
        except InvalidTag:
            raise PayloadError("damaged payload: it is not what was encrypted") from None
