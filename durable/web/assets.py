"""The dashboard's files: read from the package once, found by their exact names, the same for everybody and without data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

MEDIA: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Assets:
    """The files by their path; there is nothing to climb out of."""

    def __init__(self) -> None:
        self._files: Mapping[str, tuple[bytes, str, str]] = dict(_read())

    def find(self, path: str, request: Request) -> Response | None:
        """Return the file at a path, None where there is none; the place itself without its slash leads to it."""
        if path == "" and request.scope.get("root_path"):
            return RedirectResponse(request.scope["root_path"].rstrip("/") + "/", 308)
        found = self._files.get(path)
        if found is None:
            return None
        data, media, tag = found
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, 200, headers, media_type=media)

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all files."""
        return frozenset(self._files)


def _read() -> list[tuple[str, tuple[bytes, str, str]]]:
    found = []
    for file in resources.files("durable.web").joinpath("static").iterdir():
        media = MEDIA.get(file.name.rpartition(".")[2])
        if media is not None:
            data = file.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            found.append((path, (data, media, tag)))
    return found
