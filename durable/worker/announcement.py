"""What a worker tells the others through its lease: what it can run, and which partitions it hands over to whom."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgpack

from durable.app import ActivityDefinition, OrchestratorDefinition, ServedName
from durable.errors import StoreError
from durable.records import reason_of, require, unpack
from durable.versions import canonical_version

ACTIVITY = ActivityDefinition.kind
ORCHESTRATOR = OrchestratorDefinition.kind


class Offer(NamedTuple):
    """A partition that is given up for one worker to take.

    `lease_id`: that worker's. `trail`: the leases between which the partition was handed over before, the one that gives it
    now last.
    """

    lease_id: str
    trail: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """Whether a worker runs orchestrations, which activity queues it serves, what it can run, and what it hands over.

    `served`: kind → name → versions in canonical spelling. `offers`: by partition.
    """

    orchestrations: bool
    queues: tuple[str, ...]
    served: Mapping[str, Mapping[str, frozenset[str]]]
    offers: Mapping[int, Offer] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, served: Iterable[ServedName], queues: tuple[str, ...], *, orchestrations: bool) -> Announcement:
        """Return that of a worker whose app serves these names; without queues it runs no activities."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for kind, name, version in served:
            if queues if kind == ACTIVITY else orchestrations:
                names = found.setdefault(kind, {})
                names[name] = names.get(name, frozenset()) | {version}
        return cls(orchestrations, queues, found)

    def runs(self, kind: str, name: str, version: str | None) -> bool:
        """Tell whether the worker can run this; any version will do where none is asked for."""
        versions = self.served.get(kind, {}).get(name, ())
        return canonical_version(version) in versions if version is not None else bool(versions)

    @property
    def activities(self) -> set[tuple[str, str]]:
        """The queues, each with the activities that the worker runs in it."""
        return set(itertools.product(self.queues, self.served.get(ACTIVITY, ())))

    def encode(self) -> bytes:
        """Return it as the lease row carries it."""
        served = {
            kind: {name: sorted(versions) for name, versions in names.items()} for kind, names in self.served.items()
        }
        packed: bytes = msgpack.packb([self.orchestrations, self.queues, served, self.offers])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Announcement:
        """Read another worker's. Raises StoreError for what is none."""
        return _decoded(data)


@functools.lru_cache(maxsize=256)  # one look around after the other finds the same ones
def _decoded(data: bytes) -> Announcement:
    if not data:
        return Announcement(False, (), {})
    try:
        orchestrations, queues, served, offers = unpack(data)[:4]
        require(bool, orchestrations)
        require(list, queues)
        require(str, *queues)
        return Announcement(orchestrations, tuple(queues), _served(served), _offers(offers))
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is no announcement
        raise StoreError(f"a worker's announcement cannot be read: {reason_of(error)}") from error


def _served(plain: Any) -> dict[str, dict[str, frozenset[str]]]:
    require(dict, plain, *plain.values())
    require(str, *plain)
    for names in plain.values():
        require(str, *names)
        require(list, *names.values())
        for versions in names.values():
            require(str, *versions)
    return {kind: {name: frozenset(versions) for name, versions in names.items()} for kind, names in plain.items()}


def _offers(plain: Any) -> dict[int, Offer]:
    require(dict, plain)
    require(int, *plain)
    for lease_id, trail in plain.values():
        require(list, trail)
        require(str, lease_id, *trail)
    return {partition: Offer(lease_id, tuple(trail)) for partition, (lease_id, trail) in plain.items()}
