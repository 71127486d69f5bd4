"""The layers of the architecture, held as tests of the code's own imports.

Goal: nobody can add an import that points upwards, sideways between storage engines, or out of the pure engine, without
changing a table in this file. Method: parse every file and compare its imports with the tables. Imports for type checking
only are free, except in the engine.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.house.source_tree import Import, Module, installed_modules, is_pure, module_names

# Each layer imports from itself and from those below it. A module belongs to the layer that names it or its package.
LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("faces", frozenset({"durable.cli", "durable.web"})),
    ("what the faces show", frozenset({"durable.json_values", "durable.timeline"})),
    (
        "features",
        frozenset(
            {"durable.jobs", "durable.schedules", "durable.entities", "durable.http", "durable.limits", "durable.otel"}
        ),
    ),
    (
        "client and worker",
        frozenset({"durable.client", "durable.invariants", "durable.replaying", "durable.testing", "durable.worker"}),
    ),
    ("context", frozenset({"durable.context", "durable.orchestrations"})),
    (
        "contract, encoding, registry",
        frozenset(
            {
                "durable.activity_context",
                "durable.app",
                "durable.encryption",
                "durable.failures",
                "durable.features",
                "durable.history",
                "durable.hub_clock",
                "durable.ids",
                "durable.injection",
                "durable.messages",
                "durable.middleware",
                "durable.model",
                "durable.offloading",
                "durable.payloads",
                "durable.ports",
                "durable.leases",
                "durable.listeners",
                "durable.news",
                "durable.provider",
                "durable.rows",
                "durable.sealed",
                "durable.signatures",
                "durable.stores",
                "durable.urls",
                "durable.versions",
            }
        ),
    ),
    ("engine", frozenset({"durable.engine"})),
    (
        "what a history is made of",
        frozenset(
            {
                "durable.carried",
                "durable.differences",
                "durable.events",
                "durable.exchanges",
                "durable.outgoing",
                "durable.places",
                "durable.plain_events",
                "durable.permits",
                "durable.prefixes",
                "durable.records",
                "durable.retry",
                "durable.seeds",
                "durable.timers",
                "durable.traces",
            }
        ),
    ),
    ("errors", frozenset({"durable.errors", "durable.value_objects"})),
)

# All that pure modules may use besides each other: nothing here reads a clock, makes an id, or touches the
# outside. asyncio is the language of async orchestrators; the engine brings its own loop and never asks for asyncio's.
PURE_MAY_IMPORT = frozenset(
    {
        "__future__",
        "abc",
        "asyncio",
        "bisect",
        "collections",
        "contextlib",
        "contextvars",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "inspect",
        "itertools",
        "json",
        "math",
        "msgpack",
        "operator",
        "random",  # only as the seeded `random.Random`, see test_the_engine_calls_nothing_impure
        "re",
        "reprlib",
        "string",
        "struct",
        "sys",
        "textwrap",
        "types",
        "typing",
        "weakref",
        "zlib",
    }
)
PURE_NEVER_IMPORT = ("time", "uuid", "os", "socket", "threading", "logging", "secrets")

# A storage engine sees the contract and nothing else of the core: it stores, it never decides.
ENGINES_OF_STORAGE_MAY_IMPORT = frozenset(
    {"durable.errors", "durable.listeners", "durable.news", "durable.ports", "durable.provider", "durable.urls"}
)
DRIVERS = {
    "durable_memory": frozenset[str](),
    "durable_postgres": frozenset({"asyncpg"}),
    "durable_sqlite": frozenset({"aiosqlite"}),
}

THIRD_PARTY_OF_THE_CORE = frozenset(
    {"aiosqlite", "cronsim", "msgpack", "pydantic", "pydantic_core", "typing_extensions"}
)
# The command line needs the extra `cli`.
THIRD_PARTY_OF_CLI = THIRD_PARTY_OF_THE_CORE | {"click", "rich", "watchfiles"}
# The HTTP API and the dashboard need the extra `web`.
THIRD_PARTY_OF_THE_WEB = THIRD_PARTY_OF_THE_CORE | {"starlette", "uvicorn"}
# The conformance suite is for authors of storage engines, who have the `testing` extra.
THIRD_PARTY_OF_TESTING = THIRD_PARTY_OF_THE_CORE | {"hypothesis", "pytest"}

# AES-GCM needs the extra `encryption`.
THIRD_PARTY_OF_ENCRYPTION = THIRD_PARTY_OF_THE_CORE | {"cryptography"}

# Spans and metrics need the extra `otel`.
THIRD_PARTY_OF_OTEL = THIRD_PARTY_OF_THE_CORE | {"opentelemetry"}

THIRD_PARTY_OF = {
    "http.sending": THIRD_PARTY_OF_THE_CORE | {"httpx"},  # the extra `http`
    "encryption": THIRD_PARTY_OF_ENCRYPTION,
    "otel": THIRD_PARTY_OF_OTEL,
    "cli": THIRD_PARTY_OF_CLI,
    "testing": THIRD_PARTY_OF_TESTING,
    "web": THIRD_PARTY_OF_THE_WEB,
}

# Imports inside a function, with the reason for each: (module, function, imported).
LAZY_IMPORTS: dict[tuple[str, str, str], str] = {
    ("durable.cli", "main", "durable.cli.program"): (
        "brings the libraries of the extra `cli`: where they are missing, that is said in one line"
    ),
    ("durable.payloads.fitting", "validation", "durable.payloads.validation"): (
        "brings pydantic, which takes longer to import than all the rest together; many values never need it"
    ),
    ("durable.stores", "_engine", "importlib.metadata"): (
        "brings zip files and e-mail along, a fifth of what importing the package takes; only opening a store needs it"
    ),
}


def layer_of(module: str) -> int | None:
    """The position of a module's layer in LAYERS, or None."""
    for position, (_, members) in enumerate(LAYERS):
        if any(module == member or module.startswith(member + ".") for member in members):
            return position
    return None


def top(module: str) -> str:
    return module.partition(".")[0]


def core_modules() -> list[Module]:
    return [module for module in installed_modules() if top(module.name) == "durable"]


def imports_of(modules: list[Module], *, with_types: bool = False) -> list[Import]:
    return [item for module in modules for item in module.imports() if with_types or not item.for_types_only]


def described(breaches: list[Import]) -> str:
    return "\n".join(map(str, breaches))


def test_every_module_of_the_core_belongs_to_a_layer() -> None:
    homeless = [module.name for module in core_modules() if module.name != "durable" and layer_of(module.name) is None]
    assert not homeless, "give these a place in LAYERS, or a better home"


def test_a_layer_imports_only_itself_and_what_is_below() -> None:
    upwards = []
    for item in imports_of(core_modules()):
        importer, imported = layer_of(item.importer), layer_of(item.imported)
        if importer is not None and imported is not None and imported < importer:
            upwards.append(item)
    assert not upwards, described(upwards)


def test_no_module_imports_the_package_that_composes_it() -> None:
    # `durable/__init__` stands above everything; whoever imports it from below has made a cycle.
    breaches = [
        item for item in imports_of(core_modules()) if item.imported == "durable" and item.importer != "durable"
    ]
    assert not breaches, described(breaches)


def test_the_engine_imports_pure_modules_only_not_even_for_types() -> None:
    pure = [module for module in core_modules() if is_pure(module.name)]
    breaches = [
        item
        for item in imports_of(pure, with_types=True)
        if not is_pure(item.imported) and top(item.imported) not in PURE_MAY_IMPORT
    ]
    assert not breaches, described(breaches)
    assert not PURE_MAY_IMPORT & set(PURE_NEVER_IMPORT)


def test_the_core_imports_no_storage_engine() -> None:
    breaches = [item for item in imports_of(core_modules(), with_types=True) if top(item.imported) in DRIVERS]
    assert not breaches, described(breaches)


@pytest.mark.parametrize("package", sorted(DRIVERS))
def test_a_storage_engine_sees_the_contract_and_its_driver_only(package: str) -> None:
    breaches = []
    for item in imports_of([module for module in installed_modules() if top(module.name) == package]):
        allowed = (
            top(item.imported) == package
            or item.imported in ENGINES_OF_STORAGE_MAY_IMPORT
            or top(item.imported) in sys.stdlib_module_names
            or top(item.imported) in DRIVERS[package]
        )
        if not allowed:
            breaches.append(item)
    assert not breaches, described(breaches)


def test_every_storage_engine_is_listed_here() -> None:
    assert {top(name) for name in module_names()} - {"durable"} == set(DRIVERS)


def test_nothing_but_testing_imports_testing() -> None:
    breaches = [
        item
        for item in imports_of(core_modules())
        if item.imported.startswith("durable.testing") and not item.importer.startswith("durable.testing")
    ]
    assert not breaches, described(breaches)


def test_the_core_needs_its_declared_dependencies_and_no_others() -> None:
    breaches = []
    for item in imports_of(core_modules()):
        places = ((f"durable.{place}", allowed) for place, allowed in THIRD_PARTY_OF.items())
        allowed = next((known for place, known in places if item.importer.startswith(place)), THIRD_PARTY_OF_THE_CORE)
        name = top(item.imported)
        if name != "durable" and name not in sys.stdlib_module_names and name not in allowed:
            breaches.append(item)
    assert not breaches, described(breaches)


def test_imports_inside_functions_are_listed_with_a_reason() -> None:
    lazy = [item for item in imports_of(list(installed_modules()), with_types=True) if item.function is not None]
    found = {(item.importer, str(item.function), item.imported) for item in lazy}
    assert not [item for item in lazy if (item.importer, str(item.function), item.imported) not in LAZY_IMPORTS], (
        f"a cycle is a bug, not a reason:\n{described(lazy)}"
    )
    assert found == set(LAZY_IMPORTS), "these are listed but gone"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {
        module.name: {
            item.imported
            for item in module.imports()
            if item.imported in module_names() and item.imported != module.name and not item.for_types_only
        }
        for module in installed_modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " -> ".join(error.args[1]))
