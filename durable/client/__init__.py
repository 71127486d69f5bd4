"""Clients: starting orchestrations, watching them, and talking to them, from any process that reaches the store.

`client` and `handle` are what users hold. Below them: `starting` makes the one message that is a start, `submitting` sends
messages in groups, `waiting` wakes and polls for all who wait, `states` shows rows as plain data, `filters` says which
instances a call means, `purging` removes, and `blocking` gives all of it a blocking face.
"""

from durable.client.blocking import GuestPortal
from durable.client.client import Client, SyncClient, blocking_face
from durable.client.handle import Handle, SyncHandle
from durable.client.starting import StartOptions

__all__ = ["Client", "GuestPortal", "Handle", "StartOptions", "SyncClient", "SyncHandle", "blocking_face"]
