"""What can be written as a job, and how a tree reads: without a store."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import App, FailureDetails, InvalidInputError, LimitExceededError, UnknownNameError
from durable.jobs import Job, JobNode, JobStatus, Priority, RunCondition
from durable.jobs.model import INDENTED_LEVELS_MAX
from durable.jobs.packing import PART_BYTES_MAX, REQUEST_BYTES_MAX, Packer, cut
from durable.jobs.wire import NO_PARENT, JobSpec, Kind, TreeInput
from durable.payloads import encode

app = App()


@app.activity(version="1.2")
def pay(amount: int) -> str:
    return f"paid {amount}"


@app.activity
def ping() -> None: ...


@app.orchestrator
async def ship(ctx: Any, order: dict[str, int]) -> None: ...


def nothing_registered() -> None: ...


def node(number: int, *children: JobNode, status: JobStatus = JobStatus.DONE, **fields: Any) -> JobNode:
    usual: dict[str, Any] = {
        "id": str(number),
        "parent_id": None,
        "function": f"step{number}",
        "description": "",
        "status": status,
        "run_condition": RunCondition.ON_SUCCESS,
        "priority": Priority.NORMAL,
        "attempts": 1,
        **dict.fromkeys(("scheduled_for", "started_at", "finished_at", "request", "result", "error", "skip_reason")),
    }
    return JobNode(**(usual | fields), children=children)


def test_then_returns_a_new_tree_and_leaves_the_old_one() -> None:
    root = Job(pay, 5)
    one = root.then(Job(ping))
    two = one.then(Job(ping, description="again").then(Job(pay, 7)))
    assert (len(root.children), len(one.children), len(two.children)) == (0, 1, 2)
    assert two.children[0] is one.children[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        root.request = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"at": datetime(2030, 1, 1)}, ValueError),
        ({"at": timedelta(1)}, TypeError),
        ({"delay": timedelta(-1)}, ValueError),
        ({"delay": 5}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": True}, TypeError),
        ({"retry_intervals": ("5",)}, TypeError),
        ({"retry_intervals": (-1,)}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"priority": 0}, TypeError),
        ({"run_condition": RunCondition(0)}, ValueError),
        ({"run_condition": "ON_SUCCESS"}, TypeError),
        ({"description": 5}, TypeError),
        ({"description": "x" * 5000}, ValueError),
        ({"description": "\ud800"}, ValueError),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(fields))):
        Job(pay, 5, **fields)


@pytest.mark.parametrize("function", [5, "", "a\0b", None])
def test_a_function_is_one_or_its_name(function: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Job(function)
    with pytest.raises(TypeError, match="Job"):
        Job(pay).then(pay)  # type: ignore[arg-type]


def test_conditions_are_flags() -> None:
    assert RunCondition.ON_FAILURE | RunCondition.ON_CANCELLED == RunCondition.ON_FAILURE_OR_CANCELLED
    assert RunCondition.ON_SUCCESS in RunCondition.ON_ANY_COMPLETED_STATUS
    assert RunCondition.IN_PROGRESS not in RunCondition.ON_ANY_COMPLETED_STATUS


def test_a_tree_is_packed_flat_each_job_before_its_children() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    tree = (
        Job(pay, 5, at=at)
        .then(Job(ship, {"order": 7}, delay=timedelta(minutes=1)))
        .then(
            Job(
                "anything",
                {"a": [1]},
                retries=2,
                retry_intervals=(1, timedelta(seconds=5)),
                timeout=9,
                priority=Priority.HIGH,
            )
        )
    )
    specs = Packer(app).flat(tree)
    assert specs == [
        JobSpec(NO_PARENT, Kind.ACTIVITY, "pay", "1.2", encode(5), at_us=1_893_456_000_000_000),
        JobSpec(0, Kind.ORCHESTRATOR, "ship", "0", encode({"order": 7}), delay_us=60_000_000),
        JobSpec(
            0,
            Kind.NAME,
            "anything",
            None,
            encode({"a": [1]}),
            retries=2,
            intervals_us=(1_000_000, 5_000_000),
            timeout_us=9_000_000,
            priority=Priority.HIGH,
        ),
    ]
    assert [JobSpec.from_plain(spec.to_plain()) for spec in specs] == specs
    assert Packer(None).flat(tree) == specs, "what decorators note on a function is enough"


def test_a_request_that_does_not_fit_its_function_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="input of activity 'pay'"):
        Packer(app).flat(Job(ping).then(Job(pay, "five")))
    with pytest.raises(InvalidInputError, match="takes no input"):
        Packer(app).flat(Job(ping, 5))
    with pytest.raises(UnknownNameError, match="nothing_registered"):
        Packer(app).flat(Job(nothing_registered))
    with pytest.raises(LimitExceededError, match=f"{REQUEST_BYTES_MAX}"):
        Packer(app).flat(Job("anything", b"x" * (REQUEST_BYTES_MAX + 1)))


def test_a_large_tree_is_cut_into_parts_that_fit() -> None:
    root = Job("root")
    for _ in range(40):
        root = root.then(Job("leaf", b"x" * 100_000))
    specs = Packer(app).flat(root)
    first, parts = cut(specs)
    assert first.parts == len(parts) > 2
    again = [*TreeInput.decode(first.to_plain()).jobs, *(JobSpec.from_plain(job) for part in parts for job in part)]
    assert again == specs
    assert all(len(encode(part)) < 1.1 * PART_BYTES_MAX for part in [first.to_plain(), *parts])


def test_a_tree_as_text_has_a_line_for_each_job() -> None:
    failed = FailureDetails("shop.CardDeclined", "no money")
    tree = node(
        0,
        node(1, node(2, status=JobStatus.IDLE, scheduled_for=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), attempts=0)),
        node(3, status=JobStatus.FAILED, error=failed, attempts=3),
        node(4, status=JobStatus.SKIPPED, skip_reason="nothing to do", attempts=0),
        description="the order of Ada",
    )
    assert str(tree).splitlines() == [
        'step0 DONE "the order of Ada"',
        "├─ step1 DONE",
        "│  └─ step2 IDLE for 2030-01-02 03:04:05",
        "├─ step3 FAILED attempt 3 (shop.CardDeclined: no money)",
        "└─ step4 SKIPPED (nothing to do)",
    ]
    assert [job.id for job in tree.walk()] == ["0", "1", "2", "3", "4"]
    assert tree.find("3").attempts == 3
    with pytest.raises(LookupError, match="'9'"):
        tree.find("9")


def test_a_tree_of_any_depth_can_be_shown_and_compared() -> None:
    depth = 20_000

    def chain(last: JobStatus) -> JobNode:
        tree = node(depth, status=last)
        for number in range(depth - 1, -1, -1):
            tree = node(number, tree)
        return tree

    one, same, other = chain(JobStatus.DONE), chain(JobStatus.DONE), chain(JobStatus.FAILED)
    assert one == same
    assert one != other
    assert one != "one"
    lines = str(one).splitlines()
    assert len(lines) == depth + 1
    assert len(str(one)) < depth * (4 * INDENTED_LEVELS_MAX), "its text grows with its size, not with its square"
    assert lines[-1].endswith(f"[level {depth}] step{depth} DONE")
    assert repr(one) == "<JobNode 0: step0, DONE, 1 children>"
