"""Large payloads outside of the store: `wrapping` is the provider, `stores` where they lie, `shelf` whose they are.

`references` says what the store has in place of a payload. Why it is cut this way: docs/decisions/0042.
"""

from durable.offloading.stores import FolderPayloads, MemoryPayloads, PayloadStore
from durable.offloading.wrapping import offloaded_store

__all__ = ["FolderPayloads", "MemoryPayloads", "PayloadStore", "offloaded_store"]
