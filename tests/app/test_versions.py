"""Versions are dot-separated numbers, compared as numbers, with one canonical spelling."""

from __future__ import annotations

from typing import Any

import pytest

from durable.versions import canonical_version, version_key


@pytest.mark.parametrize(
    ("older", "newer"), [("1.9", "1.10"), ("9", "10"), ("1", "1.0.1"), (None, "0.1"), ("1.2.3", "1.3"), ("02", "3")]
)
def test_versions_compare_as_numbers(older: str | None, newer: str) -> None:
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0"), (None, "0"), (None, "0.0"), ("1.02", "1.2"), ("10", "10.0.0")]
)
def test_a_missing_part_counts_as_0_and_so_does_no_version(one: str | None, other: str) -> None:
    assert version_key(one) == version_key(other)
    assert canonical_version(one) == canonical_version(other)


@pytest.mark.parametrize(("version", "spelling"), [(None, "0"), ("1.0", "1"), ("1.10", "1.10"), ("0.0.7", "0.0.7")])
def test_a_version_has_one_canonical_spelling(version: str | None, spelling: str) -> None:
    assert canonical_version(version) == spelling


@pytest.mark.parametrize(
    "version", ["", " 1", "1\n", "v1", "1.", ".1", "1..2", "-1", "1.0b1", "1,0", "²", "१", 1, 1.10, (1, 0), "1" * 101]
)
def test_anything_else_is_a_value_error(version: Any) -> None:
    with pytest.raises(ValueError, match="version"):
        version_key(version)
