"""Durable orchestration: ordinary Python code that is replayed over its history, and so survives crashes and waits for years.

    entities, jobs, schedules     features, on the public seams of what stands below; `limits` is another
    client, worker                the only places with tasks, threads and timeouts
    context, orchestrations       what an orchestrator sees; between it and the engine
    activity_context              what an activity sees
    provider, payloads, app       the storage contract, values as bytes, the registry of functions
    engine                        pure: code, history and arrivals in; all that must become durable out
    errors                        every error, and failures as plain data

Each imports only what is below it; `providers/durable_*` implement the contract. All that users need is exported here.
"""

import logging

from durable.activity_context import ActivityContext, current_activity
from durable.app import App
from durable.client import Client, Handle, SyncClient, SyncHandle
from durable.context import Orchestration, OrchestrationContext, when_all, when_any
from durable.engine.tasks import Task
from durable.entities import (
    CriticalSection,
    EntityContext,
    EntityId,
    EntityLockAcquired,
    EntityLockGranted,
    EntityLockLeft,
    EntityLockReceived,
    EntityLockReleased,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationPerformed,
    EntityOperationReceived,
    EntityOperationSignaled,
    EntityState,
)
from durable.entities import register as _register_entities
from durable.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    CriticalSectionError,
    DivergenceError,
    DuplicateNameError,
    DurableError,
    EntityOperationFailedError,
    EventDataError,
    FailureDetails,
    HandlerFailedError,
    HistoryDamagedError,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    InvalidInputError,
    LeaseLostError,
    LimitExceededError,
    NonDurableAwaitError,
    NonRetryableError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    QueryFailedError,
    StoreError,
    StoreUnavailableError,
    SubOrchestrationFailedError,
    TaskFailedError,
    TurnBudgetExceededError,
    UnknownNameError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkerLostError,
)
from durable.events import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    AnswerKept,
    EventRaised,
    EventSent,
    HistoryEvent,
    OrchestrationCancelled,
    OrchestrationCancelRequested,
    OrchestrationCodeChanged,
    OrchestrationCompleted,
    OrchestrationContinuedAsNew,
    OrchestrationFailed,
    OrchestrationForked,
    OrchestrationResumed,
    OrchestrationRewound,
    OrchestrationStarted,
    OrchestrationSuspended,
    OrchestrationTerminated,
    PatchApplied,
    SubOrchestrationCancelled,
    SubOrchestrationCompleted,
    SubOrchestrationFailed,
    SubOrchestrationScheduled,
    TimerCancelled,
    TimerCreated,
    TimerFired,
)
from durable.exchanges import UpdateCompleted, UpdateFailed, UpdateReceived
from durable.history import History
from durable.http import HttpFailedError, HttpPolicy, HttpRefusedError, HttpResponse
from durable.http import register as _register_http
from durable.injection import Inject, MissingDependencyError
from durable.jobs import JobFailed
from durable.jobs import register as _register_jobs
from durable.limits import register as _register_limits
from durable.middleware import ActivityCall, ClientCall, Middleware, TurnCall
from durable.model import (
    ActivityState,
    DroppedItem,
    OrchestrationState,
    OrchestrationStatus,
    OverlapPolicy,
    ReusePolicy,
)
from durable.offloading import FolderPayloads, MemoryPayloads, PayloadStore, offloaded_store
from durable.payloads import Compression, EncodingError, PayloadError
from durable.retry import RetryPolicy
from durable.schedules import OccurrenceToldToEnd
from durable.schedules import register as _register_schedules
from durable.sealed import sealed_store
from durable.worker import Worker, WorkerHealth

__all__ = [
    "ActivityCall",
    "ActivityCancelled",
    "ActivityCompleted",
    "ActivityContext",
    "ActivityFailed",
    "ActivityFailedError",
    "ActivityScheduled",
    "ActivityState",
    "ActivityTimeoutError",
    "AnswerKept",
    "App",
    "Client",
    "ClientCall",
    "Compression",
    "CriticalSection",
    "CriticalSectionError",
    "DivergenceError",
    "DroppedItem",
    "DuplicateNameError",
    "DurableError",
    "EncodingError",
    "EntityContext",
    "EntityId",
    "EntityLockAcquired",
    "EntityLockGranted",
    "EntityLockLeft",
    "EntityLockReceived",
    "EntityLockReleased",
    "EntityLockRequested",
    "EntityOperationCalled",
    "EntityOperationCompleted",
    "EntityOperationFailed",
    "EntityOperationFailedError",
    "EntityOperationPerformed",
    "EntityOperationReceived",
    "EntityOperationSignaled",
    "EntityState",
    "EventDataError",
    "EventRaised",
    "EventSent",
    "FailureDetails",
    "FolderPayloads",
    "Handle",
    "HandlerFailedError",
    "History",
    "HistoryDamagedError",
    "HistoryEvent",
    "HttpFailedError",
    "HttpPolicy",
    "HttpRefusedError",
    "HttpResponse",
    "Inject",
    "InstanceAlreadyExistsError",
    "InstanceFinishedError",
    "InstanceNotFoundError",
    "InstanceRunningError",
    "InvalidInputError",
    "JobFailed",
    "LeaseLostError",
    "LimitExceededError",
    "MemoryPayloads",
    "Middleware",
    "MissingDependencyError",
    "NonDurableAwaitError",
    "NonRetryableError",
    "OccurrenceToldToEnd",
    "Orchestration",
    "OrchestrationCancelRequested",
    "OrchestrationCancelled",
    "OrchestrationCancelledError",
    "OrchestrationCodeChanged",
    "OrchestrationCompleted",
    "OrchestrationContext",
    "OrchestrationContinuedAsNew",
    "OrchestrationFailed",
    "OrchestrationFailedError",
    "OrchestrationForked",
    "OrchestrationResumed",
    "OrchestrationRewound",
    "OrchestrationStarted",
    "OrchestrationState",
    "OrchestrationStatus",
    "OrchestrationSuspended",
    "OrchestrationTerminated",
    "OrchestrationTerminatedError",
    "OverlapPolicy",
    "PatchApplied",
    "PayloadError",
    "PayloadStore",
    "QueryFailedError",
    "RetryPolicy",
    "ReusePolicy",
    "StoreError",
    "StoreUnavailableError",
    "SubOrchestrationCancelled",
    "SubOrchestrationCompleted",
    "SubOrchestrationFailed",
    "SubOrchestrationFailedError",
    "SubOrchestrationScheduled",
    "SyncClient",
    "SyncHandle",
    "Task",
    "TaskFailedError",
    "TimerCancelled",
    "TimerCreated",
    "TimerFired",
    "TurnBudgetExceededError",
    "TurnCall",
    "UnknownNameError",
    "UpdateCompleted",
    "UpdateFailed",
    "UpdateFailedError",
    "UpdateReceived",
    "UpdateRejectedError",
    "Worker",
    "WorkerHealth",
    "WorkerLostError",
    "current_activity",
    "offloaded_store",
    "sealed_store",
    "when_all",
    "when_any",
]

# The features take their places on what stands below them.
_register_entities()
_register_http()
_register_jobs()
_register_limits()
_register_schedules()

# Quiet unless the program configures logging: without a handler Python would print warnings by itself.
logging.getLogger(__name__).addHandler(logging.NullHandler())
