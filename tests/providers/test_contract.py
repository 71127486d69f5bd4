"""What stores have written and other processes must read: numbers and places that may never change."""

from __future__ import annotations

import pytest

from durable.provider import Expects, InstanceKey, Priority, Status, Verdict, partition_of


@pytest.mark.parametrize(
    ("key_id", "kind", "partition"),
    [("a", "o", 1), ("", "o", 23), ("日本", "o", 17), ("a", "entity", 63), ("x" * 512, "o", 23)],
)
def test_an_instance_stays_in_its_partition(key_id: str, kind: str, partition: int) -> None:
    """Another hash would leave every stored instance with an owner who does not look for it."""
    assert partition_of(InstanceKey(key_id, kind), 64) == partition


def test_ids_are_spread_over_the_partitions() -> None:
    counts = [0] * 64
    for n in range(6400):
        counts[partition_of(InstanceKey(f"order-{n}"), 64)] += 1
    assert min(counts) > 50
    assert max(counts) < 200


def test_stored_numbers_keep_their_meaning() -> None:
    assert [status.name for status in sorted(Status)] == [
        *("PENDING", "RUNNING", "SUSPENDED", "STALLED", "COMPLETED", "FAILED", "CANCELLED", "TERMINATED")
    ]
    assert [verdict.name for verdict in sorted(Verdict)] == [
        *("STORED", "ABSENT", "FINISHED", "EXISTS", "ADOPTED", "TOO_LARGE", "REFUSED")
    ]
    assert [priority.name for priority in sorted(Priority)] == ["CONTROL", "NORMAL"]
    assert [expects.name for expects in sorted(Expects)] == [
        "UNFINISHED",
        "ABSENT",
        "ABSENT_OR_FINISHED",
        "ANY",
        "ENDED",
    ]
    for numbers in (Status, Verdict, Priority, Expects):
        assert sorted(numbers) == list(range(len(numbers)))


def test_what_has_ended_is_told_by_its_status() -> None:
    finished = [status for status in Status if status.is_finished]
    assert finished == [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TERMINATED]
