"""The HTTP API and the dashboard: a thin face over the client (extra `web`).

serve              by itself: `durable dashboard`
create_app         as an ASGI application, to be mounted into another
Access             who is let in: tokens, the host application's word, or everybody on this machine
"""

from durable.web.access import Access
from durable.web.application import WebApp, create_app
from durable.web.roles import Principal, Role
from durable.web.server import PORT, serve
from durable.web.tokens import TokenFile, add_token, remove_tokens

__all__ = [
    "PORT",
    "Access",
    "Principal",
    "Role",
    "TokenFile",
    "WebApp",
    "add_token",
    "create_app",
    "remove_tokens",
    "serve",
]
