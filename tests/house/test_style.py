"""The size, naming and purity rules of the code. They may get stricter, never looser.

Goal: what is easy to change today stays so. Method: parse every file and measure it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.house.source_tree import ROOT, Module, installed_modules, is_pure, modules_of

FUNCTION_LINES_MAX = 70  # from `def` to the last line, docstring included; most are under 40
FILE_LINES_MAX = 600
ENGINE_LINES_MAX = 1_999
SAMPLE_LINES_MAX = 80
# Names that say nothing about what is inside; what collects there has a better home.
FORBIDDEN_NAMES = frozenset({"helpers", "helper", "utils", "util", "common", "internal", "manager", "misc"})

# Calls by which time, chance, the environment or the outside would leak into a replay.
IMPURE_CALLS = frozenset({"open", "print", "input", "hash", "id", "breakpoint", "exec", "eval"})
IMPURE_METHODS = frozenset(
    {"now", "utcnow", "today", "fromtimestamp", "getenv", "SystemRandom", "urandom", "get_event_loop"}
)
RANDOM_ALLOWED = frozenset({"Random"})


def written_by_us() -> list[Module]:
    return [*installed_modules(), *modules_of("samples")]


def functions_of(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def engine_modules() -> list[Module]:
    return [module for module in installed_modules() if module.name.startswith("durable.engine")]


def test_functions_are_short() -> None:
    long = [
        f"{module.path.relative_to(ROOT)}:{function.lineno} {function.name}: {lines} lines"
        for module in written_by_us()
        for function in functions_of(module)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    long = [
        f"{module.path.relative_to(ROOT)}: {module.lines}"
        for module in written_by_us()
        if module.lines > FILE_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_the_engine_is_small() -> None:
    assert sum(module.lines for module in engine_modules()) <= ENGINE_LINES_MAX


def test_samples_fit_on_a_page() -> None:
    long = [
        f"{module.path.relative_to(ROOT)}: {module.lines}"
        for module in modules_of("samples")
        if module.path.parent.name == "samples" and module.lines > SAMPLE_LINES_MAX
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("folder", ["durable", "providers", "samples", "tests"])
def test_names_of_modules_say_what_is_inside(folder: str) -> None:
    vague = [module.name for module in modules_of(folder) if FORBIDDEN_NAMES & set(module.name.strip("_").split("."))]
    assert not vague


def test_the_engine_calls_nothing_impure() -> None:
    impure = []
    for module in [module for module in installed_modules() if is_pure(module.name)]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _is_impure(node.func):
                impure.append(f"{module.path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
    assert not impure, "\n".join(impure)


def _is_impure(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in IMPURE_CALLS
    if isinstance(function, ast.Attribute):
        of_random = isinstance(function.value, ast.Name) and function.value.id == "random"
        return function.attr in IMPURE_METHODS or (of_random and function.attr not in RANDOM_ALLOWED)
    return False


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(module.path.relative_to(ROOT))
        for module in written_by_us()
        if module.tree.body and ast.get_docstring(module.tree) is None
    ]
    assert not silent, "\n".join(silent)


def test_nothing_is_unpickled_or_evaluated() -> None:
    dangerous = []
    for module in installed_modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                dangerous.append(f"{module.path.relative_to(ROOT)}:{node.lineno} {node.func.id}")
        for item in module.imports():
            if item.imported.partition(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle"}:
                dangerous.append(str(item))
    assert not dangerous, "\n".join(dangerous)
