"""The source files of the repository, parsed once, for the tests of this folder."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {"durable": ROOT, "providers": ROOT / "providers"}
"""The folders that are installed, and where their import names begin."""
PURE = (
    "durable.engine",
    "durable.carried",
    "durable.differences",
    "durable.events",
    "durable.exchanges",
    "durable.outgoing",
    "durable.places",
    "durable.plain_events",
    "durable.prefixes",
    "durable.records",
    "durable.retry",
    "durable.seeds",
    "durable.timers",
    "durable.errors",
    "durable.value_objects",
)
"""The engine, and what it shares with those above it."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of one module, with where it stands."""

    importer: str
    imported: str
    line: int
    for_types_only: bool
    function: str | None

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@dataclasses.dataclass(frozen=True)
class Module:
    """A module by its import name, with its parsed text."""

    name: str
    path: Path
    is_package: bool
    tree: ast.Module
    lines: int

    def imports(self) -> list[Import]:
        return list(_imports(self.tree, self.name, function=None, for_types_only=False))


def _modules_below(folder: Path, base: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path, is_package, ast.parse(text, str(path)), len(text.splitlines()))


@functools.cache
def installed_modules() -> tuple[Module, ...]:
    """All modules of `durable` and of the storage engines."""
    return tuple(module for name, base in TOP_LEVEL.items() for module in _modules_below(ROOT / name, base))


@functools.cache
def modules_of(folder: str) -> tuple[Module, ...]:
    """The modules below another folder of the repository, such as `samples` or `tests`."""
    return tuple(_modules_below(ROOT / folder, ROOT))


@functools.cache
def module_names() -> frozenset[str]:
    """The import names of all installed modules."""
    return frozenset(module.name for module in installed_modules())


def is_pure(module: str) -> bool:
    """Tell whether a module belongs to the part that neither reads the outside nor writes it."""
    return any(module == pure or module.startswith(pure + ".") for pure in PURE)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _imports(node: ast.AST, importer: str, *, function: str | None, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for imported in _imported_names(child):
                yield Import(importer, imported, child.lineno, for_types_only, function)
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), importer, function=function, for_types_only=True)
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), importer, function=function, for_types_only=False)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            inside = getattr(child, "name", None) if is_function else function
            yield from _imports(child, importer, function=inside, for_types_only=for_types_only)


def _imported_names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.module, f"relative import in line {node.lineno}"
    for alias in node.names:
        # `from durable.engine import events` imports a module; `from durable.errors import DurableError` a name of one.
        below = f"{node.module}.{alias.name}"
        yield below if below in module_names() else node.module
