"""The conformance suite finds every broken provider of the catalogue, by a test of the promise that it breaks.

Goal: no sentence of the contract is a sentence only. Method: for each promise, small changes to the memory provider (see
`tests/providers/broken`); under each of them at least one test of that promise's group must fail.
"""

from __future__ import annotations

import pytest

from durable.testing.conformance import GROUPS, Conformance
from tests.providers.broken import (
    activities,
    beginnings,
    clock,
    commits,
    concurrency,
    instances,
    leases,
    limits,
    messages,
    reads,
    timers,
    wakeups,
)
from tests.providers.broken.running import cases_of, first_finding
from tests.providers.broken.variants import Variant

MODULES = (
    instances,
    beginnings,
    messages,
    commits,
    leases,
    clock,
    activities,
    timers,
    reads,
    concurrency,
    limits,
    wakeups,
)
VARIANTS: list[Variant] = [variant for module in MODULES for variant in module.CATALOGUE.variants]


def test_the_catalogue_has_variants_of_every_promise() -> None:
    assert {variant.promise for variant in VARIANTS} == set(GROUPS)
    assert len({str(variant) for variant in VARIANTS}) == len(VARIANTS) >= 60


def test_the_groups_are_the_whole_suite() -> None:
    tests = [name for group in GROUPS.values() for name in vars(group) if name.startswith("test_")]
    assert sorted(tests) == sorted(name for name in dir(Conformance) if name.startswith("test_"))


@pytest.mark.parametrize("promise", GROUPS)
def test_the_provider_as_it_is_keeps_its_promises(promise: str) -> None:
    for case in cases_of(promise):
        case.run()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_suite_finds(variant: Variant) -> None:
    with variant.applied():
        found_by = first_finding(variant.promise)
    assert found_by is not None, f"no test of '{variant.promise}' fails though {variant.name}"
