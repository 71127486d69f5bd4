"""Every error of the package, and the plain-data form in which failures travel.

An error says what happened, to which instance, where in the user's code, and what to do. All derive from `DurableError`.
`FailureDetails` is what an exception becomes when it leaves an activity or an orchestrator: bounded, plain data, without
any reference to a live exception, so that it can be stored, sent and shown anywhere.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


def qualified_name(exception_type: type[BaseException]) -> str:
    """Return the name under which an exception type is recorded: `ValueError`, `shop.errors.CardDeclined`."""
    module = exception_type.__module__
    return exception_type.__qualname__ if module == "builtins" else f"{module}.{exception_type.__qualname__}"


TASK_FAILED: Final = "durable.errors.TaskFailedError"


@dataclasses.dataclass(frozen=True, slots=True)
class FailureDetails:
    """What is known of an exception, as plain data.

    `message` is the exception's `str()` with nothing added; `error_type` and `error_bases` are qualified names
    (`ValueError`, `shop.errors.CardDeclined`; the bases in method resolution order, without the type itself and `object`).
    """

    error_type: str
    message: str
    stack_trace: str = ""
    inner: FailureDetails | None = None
    non_retryable: bool = False
    error_bases: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one go, as Python ends a traceback; a failed task is told of by its message, which names the error."""
        is_own = self.error_type.startswith("durable.")
        if is_own and TASK_FAILED in (self.error_type, *self.error_bases):
            return self.message
        name = self.error_type.rpartition(".")[2] if is_own else self.error_type
        text = f"{name}: {self.message}" if self.message else name
        return f"{text}, first {self.inner}" if self.is_group and self.inner is not None else text

    @property
    def is_group(self) -> bool:
        """Whether it is a group of exceptions, which says little by itself; `inner` is the first in it."""
        return "BaseExceptionGroup" in (self.error_type, *self.error_bases)

    def is_caused_by(self, error: type[BaseException] | str) -> bool:
        """Tell whether `error` is the recorded type, one of its bases, or the cause of it at any depth.

        Compares names only: a stored name is never imported. A string may be qualified or the bare class name.
        """
        wanted = error if isinstance(error, str) else qualified_name(error)
        return any(wanted == name or wanted == name.rpartition(".")[2] for name in self._names())

    def _names(self) -> Iterator[str]:
        details: FailureDetails | None = self
        while details is not None:
            yield details.error_type
            yield from details.error_bases
            details = details.inner


class DurableError(Exception):
    """Base class of every error of the package."""


# ---- mistakes in the user's program, raised where they are made


class DuplicateNameError(DurableError, ValueError):
    """Two functions were registered under one name and version."""


class UnknownNameError(DurableError, LookupError):
    """No activity or orchestrator of that name and version is registered with this app; or no such query is there."""


class InvalidInputError(DurableError, ValueError):
    """An input does not fit the function it is meant for. Raised before anything is stored."""


class LimitExceededError(DurableError, ValueError):
    """A value is over one of the documented limits; the text names the limit and the size."""


class NonDurableAwaitError(DurableError, RuntimeError):
    """An orchestrator awaited something that cannot be replayed: real time, a thread, a socket, a foreign future."""


class NonRetryableError(DurableError):
    """Raise it (or a subclass) in an activity to fail the call without further attempts."""


# ---- failures that an orchestrator sees


class TaskFailedError(DurableError):
    """An awaited task failed. `details` describe the exception that the activity raised or that left the child."""

    def __init__(self, details: FailureDetails, *, task_name: str = "", instance_id: str = "") -> None:
        self.details = details
        self.task_name = task_name
        self.instance_id = instance_id
        super().__init__(details, task_name)

    def __str__(self) -> str:
        text = str(self.details)
        is_named = not self.task_name or f"'{self.task_name}'" in text
        return text if is_named else f"{self.task_name}: {text}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_failed, (type(self), self.details, self.task_name, self.instance_id)


def _rebuild_task_failed(
    cls: type[TaskFailedError], details: FailureDetails, task_name: str, instance_id: str
) -> TaskFailedError:
    return cls(details, task_name=task_name, instance_id=instance_id)


class ActivityFailedError(TaskFailedError):
    """An activity failed, after all the attempts that its policy allows."""


class ActivityTimeoutError(ActivityFailedError, TimeoutError):
    """An activity ran into one of its timeouts; the message names which."""


class SubOrchestrationFailedError(TaskFailedError):
    """A child orchestration failed, was cancelled or was terminated."""


class EntityOperationFailedError(TaskFailedError):
    """An operation of an entity raised; the entity's state is as it was before."""


class CriticalSectionError(DurableError, RuntimeError):
    """Something was asked for inside of a critical section that could wait for ever, or for a lock that is over."""


class EventDataError(DurableError, ValueError):
    """The data of an external event does not fit the type that the orchestrator waits for. The event is consumed."""


class WorkerLostError(DurableError):
    """An attempt was delivered again and again and no worker lived to report its outcome."""


# ---- what a client sees


class InstanceNotFoundError(DurableError, LookupError):
    """No instance with that id is in the hub."""


class InstanceAlreadyExistsError(DurableError):
    """The id is in use. `state` is the current `OrchestrationState` where it is known."""

    def __init__(self, message: str, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class InstanceFinishedError(DurableError):
    """The instance has ended, so it cannot take what was sent to it."""


class InstanceRunningError(DurableError):
    """The instance is unfinished, and what was asked for needs a finished one."""


class OrchestrationFailedError(DurableError):
    """The orchestration failed. `details` describe the exception that left the orchestrator."""

    def __init__(self, instance_id: str, details: FailureDetails) -> None:
        self.instance_id = instance_id
        self.details = details
        super().__init__(instance_id, details)

    def __str__(self) -> str:
        return f"orchestration '{self.instance_id}' failed: {self.details}"


class OrchestrationCancelledError(DurableError):
    """The orchestration was cancelled; the text carries the reason."""


class OrchestrationTerminatedError(DurableError):
    """The orchestration was terminated; the text carries the reason."""


class UpdateRejectedError(DurableError):
    """An update's validator refused it; the text is the validator's message. Or there is no handler that it fits."""


class HandlerFailedError(DurableError):
    """The handler of a query or an update raised. `details` describe that exception."""

    def __init__(self, what: str, details: FailureDetails) -> None:
        self.what = what
        self.details = details
        super().__init__(what, details)

    def __str__(self) -> str:
        return f"{self.what} failed: {self.details}"


class UpdateFailedError(HandlerFailedError):
    """The handler of an update raised, or had not finished when the orchestration ended. The update was accepted."""


class QueryFailedError(HandlerFailedError):
    """The handler of a query raised, or did more than look. It leaves no trace."""


# ---- the store and its records


class StoreError(DurableError):
    """The store cannot be used as asked: missing, foreign, newer, read-only, full; the text says which and what to do."""


class StoreUnavailableError(StoreError):
    """The store does not answer at the moment; nothing is known to be lost, and a later try may succeed."""


class LeaseLostError(StoreError):
    """The lease's epoch was raised by another worker: nothing of the refused batch was written."""


class HistoryDamagedError(DurableError):
    """A stored history does not match its checksums, or cannot be read. It is never run."""


class StoredValueError(DurableError):
    """A recorded value no longer fits today's types: the instance stalls."""


class DivergenceError(DurableError):
    """Today's code asks for something else than the history records.

    The text says where, what was recorded, what is asked now, both source lines and the likely cause.
    """


class TurnBudgetExceededError(DurableError):
    """A turn used up its budget of loop steps or time; the text carries the stack where it was stopped."""
