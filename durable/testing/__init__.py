"""For tests: of orchestrations, by replaying what they have recorded; of storage engines, see `durable.testing.conformance`."""

from durable.testing.replaying import replay, replay_prefixes

__all__ = ["replay", "replay_prefixes"]
