"""Made by `durable/client/_generate_sync.py` from `Client` and `Handle`. Do not edit."""
from collections.abc import Callable, Generator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from durable.app import App
from durable.client.filters import Filters, Statuses
from durable.client.starting import AnyOrchestrator, I, OrchestratorWithInput, OrchestratorWithoutInput, R, StartOptions
from durable.client.times import Timeout
from durable.entities.clients import EntityState
from durable.entities.ids import EntityId
from durable.features import E, EntityFilters
from durable.history import History
from durable.model import DroppedItem, OrchestrationState
from durable.ports import Ports
from durable.provider import Provider
T_co = TypeVar('T_co', covariant=True)

class SyncHandle(Generic[T_co]):

    @property
    def instance_id(self) -> str:
        ...

    @property
    def run_id(self) -> str | None:
        ...

    def result(self, timeout: Timeout=None) -> T_co:
        ...

    def wait(self, timeout: Timeout=None) -> OrchestrationState:
        ...

    def watch(self) -> Generator[OrchestrationState]:
        ...

    def state(self) -> OrchestrationState:
        ...

    def history(self) -> History:
        ...

    def dropped(self) -> list[DroppedItem]:
        ...

    def raise_event(self, name: str, data: Any=None) -> None:
        ...

    def cancel(self, reason: str='') -> None:
        ...

    def terminate(self, reason: str='', recursive: bool=True) -> None:
        ...

    def suspend(self, reason: str='') -> None:
        ...

    def resume(self, reason: str='') -> None:
        ...

    def purge(self, recursive: bool=True) -> int:
        ...

class SyncClient:

    def __init__(self, url_or_provider: str | Provider, app: App | None=None, *, ports: Ports | None=None) -> None:
        ...

    def __enter__(self) -> Self:
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ...

    def close(self) -> None:
        ...

    @overload
    def start(self, orchestrator: OrchestratorWithInput[I, R], input: I, **options: Unpack[StartOptions]) -> SyncHandle[R]:
        ...

    @overload
    def start(self, orchestrator: OrchestratorWithoutInput[R], input: None=None, **options: Unpack[StartOptions]) -> SyncHandle[R]:
        ...

    @overload
    def start(self, orchestrator: str, input: Any=None, **options: Unpack[StartOptions]) -> SyncHandle[Any]:
        ...

    @overload
    def run(self, orchestrator: OrchestratorWithInput[I, R], input: I, *, timeout: Timeout=None, **options: Unpack[StartOptions]) -> R:
        ...

    @overload
    def run(self, orchestrator: OrchestratorWithoutInput[R], input: None=None, *, timeout: Timeout=None, **options: Unpack[StartOptions]) -> R:
        ...

    @overload
    def run(self, orchestrator: str, input: Any=None, *, timeout: Timeout=None, **options: Unpack[StartOptions]) -> Any:
        ...

    @overload
    def get(self, instance_id: str, orchestrator: AnyOrchestrator[R]) -> SyncHandle[R]:
        ...

    @overload
    def get(self, instance_id: str, orchestrator: str | None=None) -> SyncHandle[Any]:
        ...

    def signal_entity(self, entity: EntityId[Any], operation: Callable[..., Any] | str, input: Any=None, *, at: datetime | timedelta | None=None) -> None:
        ...

    def get_entity(self, entity: EntityId[E]) -> EntityState[E] | None:
        ...

    @overload
    def query_entities(self, entity: type[E], **filters: Unpack[EntityFilters]) -> Generator[EntityState[E]]:
        ...

    @overload
    def query_entities(self, entity: str | None=None, **filters: Unpack[EntityFilters]) -> Generator[EntityState[Any]]:
        ...

    def entity_history(self, entity: EntityId[Any]) -> History:
        ...

    def entity_dropped(self, entity: EntityId[Any]) -> list[DroppedItem]:
        ...

    def query(self, *, status: Statuses | None=None, name: str | None=None, prefix: str | None=None, tags: Mapping[str, str] | None=None, created_after: datetime | None=None, created_before: datetime | None=None, parent: str | None=None, limit: int | None=None, newest_first: bool=True, payloads: bool=True) -> Generator[OrchestrationState]:
        ...

    def count(self, **filters: Unpack[Filters]) -> int:
        ...

    def wait(self, *, timeout: Timeout=None, **filters: Unpack[Filters]) -> int:
        ...

    def confirm_clock(self) -> timedelta:
        ...

    def purge(self, **filters: Unpack[Filters]) -> int:
        ...
