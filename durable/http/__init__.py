"""HTTP from orchestrators: `ctx.call_http`, once the app allows it. Needs the extra `http`.

policy      what an app allows: destinations, private networks, sizes; the headers that never reach a history
messages    requests and responses, as they are recorded
calling     the call as an orchestrator sees it: one task, behind it the first request and the polling
sending     the activity that sends a request; the only module that imports the HTTP library
addresses   which addresses are not for the public
"""

from durable.features import register_feature
from durable.http import calling
from durable.http.messages import HttpRequest, HttpResponse
from durable.http.policy import HttpFailedError, HttpPolicy, HttpRefusedError

__all__ = ["HttpFailedError", "HttpPolicy", "HttpRefusedError", "HttpRequest", "HttpResponse", "register"]


def register() -> None:
    """Put the feature in its places; `durable/__init__` calls it."""
    register_feature("http", calling)
