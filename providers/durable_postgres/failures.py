"""PostgreSQL's and the driver's errors as those of the contract: what is tried again, and what needs somebody to act."""

from __future__ import annotations

import enum

import asyncpg

from durable.errors import LeaseLostError, StoreError, StoreUnavailableError


class Failure(enum.Enum):
    """What a failed call means."""

    ROLLED_BACK = "rolled back"  # nothing was written, and the same call may succeed at once
    NO_ANSWER = "no answer"  # nobody knows whether it was written
    REFUSED = "refused"  # nothing was written, and it will not be


UNSTORABLE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""What a call raises, with nothing written, for text with NUL or lone surrogates, for integers of more than 64 bits, and for
text that is too long for an index."""

_ROLLED_BACK = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)
_NO_ANSWER = (
    asyncpg.PostgresConnectionError,  # the server has said that the connection ends; also the driver's own
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,  # a server that was the primary, before another took its place
    asyncpg.InsufficientResourcesError,  # disk full, out of memory, too many connections
    asyncpg.PostgresSystemError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,  # also TimeoutError: what the network says, and the driver's own patience
    EOFError,
)

_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidPasswordError, "check user and password in the URL"),
    (asyncpg.InvalidAuthorizationSpecificationError, "check the user in the URL, and pg_hba.conf of the server"),
    (asyncpg.InvalidCatalogNameError, "create the database, or name another one in the URL"),
    (
        asyncpg.InsufficientPrivilegeError,
        "give this role its rights (`python -m durable_postgres rights ROLE` prints them)",
    ),
    (asyncpg.UndefinedTableError, "the hub's schema is not complete: open it again as its owner, or restore it"),
    (asyncpg.UndefinedFunctionError, "the hub's schema is not complete: open it again as its owner, or restore it"),
    (asyncpg.InvalidSchemaNameError, "the hub's schema was dropped: open the store again"),
    (asyncpg.DataCorruptedError, "stop all workers of this store and restore it from a backup"),
    (asyncpg.IndexCorruptedError, "stop all workers of this store, and REINDEX or restore it"),
)

_LEASE_LOST = "DU001"
_MEANINGLESS = "DU002"


def failure_of(error: Exception) -> Failure:
    """Return what a failed call means."""
    if isinstance(error, asyncpg.ClientConfigurationError):  # an InterfaceError, like those of a broken connection
        return Failure.REFUSED
    if isinstance(error, _ROLLED_BACK):
        return Failure.ROLLED_BACK
    return Failure.NO_ANSWER if isinstance(error, _NO_ANSWER) else Failure.REFUSED


def unavailable(error: Exception, name: str) -> StoreUnavailableError:
    """Return the contract's error for a server that has not answered for too long."""
    reason = str(error) or type(error).__name__
    return StoreUnavailableError(
        f"PostgreSQL at {name} does not answer ({reason}); if this call was to store something, it is unknown whether it did"
    )


def store_error(error: Exception, name: str) -> Exception:
    """Return the contract's error for one that means that nothing was written; one of UNSTORABLE as it is."""
    state = getattr(error, "sqlstate", None)
    if state == _LEASE_LOST:
        return LeaseLostError(str(error))
    if state == _MEANINGLESS:
        return StoreError(str(error))
    if isinstance(error, UNSTORABLE):
        return error  # for the caller, who knows which value it may be
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return StoreError(f"PostgreSQL at {name}: {error}; {remedy}")
    if isinstance(error, asyncpg.PostgresError | asyncpg.ClientConfigurationError):
        return StoreError(f"PostgreSQL at {name}: {error} ({type(error).__name__})")
    return error
