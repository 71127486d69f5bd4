"""Coming in: health, who one is, opening and closing a session."""

from __future__ import annotations

from starlette.responses import Response

from durable.web.access import COOKIE
from durable.web.calls import Call, Fields, Refusal, answer
from durable.web.sessions import SESSION_SECONDS


class Login(Fields):
    """A bearer token, for a session that a browser keeps as a cookie."""

    token: str


async def health(call: Call) -> Response:
    """Whether this process answers. It says nothing about the store, and needs nobody to be known."""
    return answer({"status": "ok"})


async def session(call: Call) -> Response:
    """Who the caller is, what they may do, and the token that changes need beside a session."""
    call.query(Fields)
    identity, options = call.identity, call.site.options
    principal = call.principal
    return answer(
        {
            "name": principal.name,
            "role": principal.role.name,
            "way": None if identity is None else identity.way,
            "csrf_token": None if identity is None else identity.csrf,
            "sees_payloads": call.view().payloads,
            "read_only": options.read_only,
            "title": options.title,
        }
    )


async def login(call: Call) -> Response:
    """Open a session with a bearer token: a cookie that no script can read and no other site can send along."""
    asked = await call.body(Login)
    opened = await call.access.open_session(asked.token, call.site.sessions)
    if opened is None:
        raise Refusal(401, "wrong_token", "nobody has this token", {"WWW-Authenticate": "Bearer"})
    response = answer({"opened": True})
    response.set_cookie(
        COOKIE,
        opened,
        max_age=SESSION_SECONDS,
        path=call.request.scope.get("root_path", "").rstrip("/") + "/",
        secure=call.request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


async def logout(call: Call) -> Response:
    """End the session of the cookie that comes along."""
    await call.access.close_session(call.request.cookies.get(COOKIE, ""), call.site.sessions)
    response = answer({"closed": True})
    response.delete_cookie(COOKIE, path=call.request.scope.get("root_path", "").rstrip("/") + "/")
    return response
