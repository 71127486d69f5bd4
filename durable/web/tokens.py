"""Bearer tokens: 256 random bits for whoever holds one; the file on the server keeps their SHA-256 only.

A token is drawn, never chosen, so that a plain digest is as good as a slow one. A token looks like `durable_…`. The file is
JSON, is read again whenever it has changed, and is written as a whole beside its place and then put there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from durable.errors import InvalidInputError
from durable.web.roles import Principal, Role, role_named

PREFIX: Final = "durable_"
RANDOM_BYTES: Final = 32
NAME_CHARACTERS_MAX: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class KnownToken:
    """A token as it is kept: `digest` is the hexadecimal SHA-256 of it."""

    digest: str
    principal: Principal


def digest_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class TokenFile:
    """The tokens in a file. Raises InvalidInputError for a file that is missing, or none of ours."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._mark: tuple[int, int, int] | None = None
        self._known: tuple[KnownToken, ...] = ()
        self.known()

    def known(self) -> tuple[KnownToken, ...]:
        """Return the tokens that the file holds now."""
        try:
            found = os.stat(self.path)
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark != self._mark:
                self._known, self._mark = _read(self.path), mark
        except OSError as error:
            self._known, self._mark = (), None  # without its file nobody gets in
            raise InvalidInputError(f"the file of tokens cannot be read: {error}") from error
        return self._known

    def find(self, token: str) -> Principal | None:
        """Return whose token it is. Takes as long for a wrong one as for a right one."""
        return self.find_digest(digest_of(token))

    def find_digest(self, digest: str) -> Principal | None:
        """Return whose token has this digest. Every known one is compared, each in constant time."""
        found: Principal | None = None
        for known in self.known():
            if hmac.compare_digest(known.digest.encode(), digest.encode()):
                found = known.principal
        return found


def _read(path: Path) -> tuple[KnownToken, ...]:
    try:
        plain = json.loads(path.read_text("utf-8"))
        found = []
        for entry in plain["tokens"]:
            name, digest = entry["name"], entry["sha256"]
            if not isinstance(name, str) or len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
                raise ValueError(f"an entry of {name!r:.60} that is none")
            found.append(KnownToken(digest.lower(), Principal(name, role_named(entry["role"]))))
        return tuple(found)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(f"{str(path)!r} is no file of tokens: {error!r:.200}") from error


def add_token(path: str | os.PathLike[str], name: str, role: Role) -> str:
    """Add a token for somebody to a file, which is made if it is missing, and return it: it is nowhere else.

    A name may have several; `remove_tokens` takes all of it away. Raises InvalidInputError for a bad name or file.
    """
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidInputError(f"the name of a token is printable text of 1 to {NAME_CHARACTERS_MAX} characters")
    file = Path(path)
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    known = [*(_read(file) if file.exists() else ()), KnownToken(digest_of(token), Principal(name, role))]
    _write(file, known)
    return token


def remove_tokens(path: str | os.PathLike[str], name: str) -> int:
    """Take all tokens of a name out of a file; return how many. Whoever holds one is out with the next request."""
    file = Path(path)
    known = _read(file)
    left = [token for token in known if token.principal.name != name]
    if len(left) < len(known):
        _write(file, left)
    return len(known) - len(left)


def _write(file: Path, known: list[KnownToken]) -> None:
    entries: list[dict[str, Any]] = [
        {"name": token.principal.name, "role": token.principal.role.name.lower(), "sha256": token.digest}
        for token in known
    ]
    beside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(json.dumps({"tokens": entries}, indent=2, ensure_ascii=False) + "\n")
    os.replace(beside, file)
