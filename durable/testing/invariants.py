"""What must be true of a store after any run: `durable.invariants`, under the name by which tests have always known it."""

from durable.invariants import (
    Accepted,
    Answers,
    Moment,
    StoredRun,
    Waiting,
    read_runs,
    read_waiting,
    violations,
    violations_among,
    violations_between,
    violations_in,
    violations_of_answers,
    violations_of_order,
    violations_of_waiting,
)

__all__ = [
    "Accepted",
    "Answers",
    "Moment",
    "StoredRun",
    "Waiting",
    "read_runs",
    "read_waiting",
    "violations",
    "violations_among",
    "violations_between",
    "violations_in",
    "violations_of_answers",
    "violations_of_order",
    "violations_of_waiting",
]
