"""Writes `sync_types.pyi`: what `SyncClient`, `SyncHandle` and so on look like to type checkers, made from their originals.

    python -m durable.client._generate_sync

A test keeps the file equal to what this makes. `async def` becomes `def`, an asynchronous iterator an iterator, and the
classes get their blocking names; everything else stays as it is written there.
"""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
STUB: Final = HERE / "sync_types.pyi"
NAMES: Final = {
    "Handle": "SyncHandle",
    "Client": "SyncClient",
    "JobHandle": "SyncJobHandle",
    "Schedules": "SyncSchedules",
    "AsyncGenerator": "Generator",
}
NOT_SHOWN: Final = frozenset({"close", "connection", "declare", "sharing", "sync"})
"""What `Client` has and its face has not, or has in a form of its own."""

DOCSTRING: Final = '"""Made by `durable/client/_generate_sync.py` from `Client`, `Handle` and so on. Do not edit."""'

SOURCES: Final = {
    "collections.abc": ("Callable", "Generator", "Iterable", "Mapping", "Sequence"),
    "datetime": ("datetime", "timedelta"),
    "types": ("TracebackType",),
    "typing": ("Any", "Generic", "Self", "TypeVar", "Unpack", "overload"),
    "durable.app": ("App",),
    "durable.client.filters": ("Filters", "Statuses"),
    "durable.client.starting": (
        "AnyOrchestrator",
        "I",
        "OrchestratorWithInput",
        "OrchestratorWithoutInput",
        "R",
        "StartOptions",
    ),
    "durable.client.times": ("Timeout",),
    "durable.context.options": ("Span",),
    "durable.entities.clients": ("EntityState",),
    "durable.entities.ids": ("EntityId",),
    "durable.features": ("E", "EntityFilters"),
    "durable.history": ("History",),
    "durable.jobs.handle": ("ANSWER_SECONDS", "JobChanges"),
    "durable.jobs.model": ("Job", "JobNode"),
    "durable.middleware": ("Middleware",),
    "durable.model": ("DroppedItem", "OrchestrationState", "OverlapPolicy", "ReusePolicy"),
    "durable.payloads": ("Sealer",),
    "durable.ports": ("Ports",),
    "durable.provider": ("Provider",),
    "durable.schedules.client": ("ScheduleChanges", "ScheduleOptions"),
    "durable.schedules.model": ("ScheduleState",),
    "durable.schedules.wire": ("ScheduleSpec",),
}
"""Where the names in annotations come from; those that are used are imported."""

OWN: Final = """\
def __init__(
    self,
    url_or_provider: str | Provider,
    app: App | None = None,
    *,
    ports: Ports | None = None,
    sealer: Sealer | None = None,
    middleware: Sequence[Middleware] = (),
) -> None: ...
def __enter__(self) -> Self: ...
def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None: ...
def close(self) -> None: ...
"""


class _Blocking(ast.NodeTransformer):
    """Rewrites annotations."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(NAMES.get(node.id, node.id), node.ctx), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        is_iterator = isinstance(node.value, ast.Name) and node.value.id == "AsyncGenerator"
        self.generic_visit(node)
        if is_iterator and isinstance(node.slice, ast.Tuple):
            node.slice = node.slice.elts[0]  # in a stub the other types of a generator have defaults
        return node


def generate() -> str:
    """Return the text of the stub, not yet formatted."""
    handle = _face(_class(HERE / "handle.py", "Handle"), [])
    job_handle = _face(_class(HERE.parent / "jobs" / "handle.py", "JobHandle"), [])
    client = _face(_class(HERE / "client.py", "Client"), ast.parse(OWN).body)
    schedules = _face(_class(HERE.parent / "schedules" / "client.py", "Schedules"), [])
    body = ast.Module(
        [*ast.parse('T_co = TypeVar("T_co", covariant=True)').body, handle, job_handle, schedules, client], []
    )
    used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
    imports = {source: [name for name in names if name in used] for source, names in SOURCES.items()}
    lines = [f"from {source} import {', '.join(names)}" for source, names in imports.items() if names]
    ours = next(place for place, line in enumerate(lines) if line.startswith("from durable."))
    return "\n".join([DOCSTRING, *lines[:ours], "", *lines[ours:], ast.unparse(body), ""])


def _class(path: Path, name: str) -> ast.ClassDef:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{path} has no class {name}")


def _face(source: ast.ClassDef, own: list[ast.stmt]) -> ast.ClassDef:
    methods: list[ast.stmt] = []
    overloaded = set()
    for node in source.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if node.name in NOT_SHOWN:
            continue
        is_overload = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
        if is_overload:
            overloaded.add(node.name)
        if is_overload or node.name not in overloaded:  # a stub leaves the implementation behind overloads out
            methods.append(_declaration(node))
    bases = [_Blocking().visit(base) for base in source.bases]
    face = ast.ClassDef(NAMES[source.name], bases, [], [*own, *methods], [])
    return ast.fix_missing_locations(face)


def _declaration(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
    node = copy.deepcopy(node)
    returns = None if node.returns is None else _Blocking().visit(node.returns)
    arguments = _Blocking().visit(node.args)
    body: list[ast.stmt] = [ast.Expr(ast.Constant(...))]
    return ast.FunctionDef(node.name, arguments, body, node.decorator_list, returns)


if __name__ == "__main__":
    STUB.write_text(generate(), encoding="utf-8")
