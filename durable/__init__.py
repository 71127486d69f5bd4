"""Durable orchestration: orchestrator code that is replayed over its history, and so survives crashes, deploys and waiting.

    errors        every error, and failures as plain data
    engine        pure: code and history in, what must become durable out
    provider      the storage contract; `providers/durable_*` implement it
    payloads, app values to bytes by annotation; the registry of functions
    context       what an orchestrator and an activity see
    client        starts, watches and steers instances
    worker        owns partitions, commits turns, runs activities

Everything that users import is here; `durable.testing` beside it holds the conformance suite for providers.
"""

from durable.activity_context import ActivityContext, current_activity
from durable.app import App
from durable.client import Client, Handle, SyncClient, SyncHandle
from durable.context import Orchestration, OrchestrationContext
from durable.engine.retry import RetryPolicy
from durable.engine.tasks import Task, when_all, when_any
from durable.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    DivergenceError,
    DuplicateNameError,
    DurableError,
    EntityOperationFailedError,
    EventDataError,
    FailureDetails,
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
    StoreError,
    StoreUnavailableError,
    SubOrchestrationFailedError,
    TaskFailedError,
    TurnBudgetExceededError,
    UnknownNameError,
    UpdateRejectedError,
    WorkerLostError,
)
from durable.history import History
from durable.model import ActivityState, DroppedItem, OrchestrationState, OrchestrationStatus, ReusePolicy
from durable.worker import Worker
