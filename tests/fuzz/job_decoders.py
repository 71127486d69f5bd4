"""What of a job tree travels as bytes, to be fuzzed: see `running.Decoder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durable import payloads
from durable.errors import FailureDetails
from durable.jobs.model import JobStatus, Priority, RunCondition
from durable.jobs.wire import (
    NO_PARENT,
    Command,
    Do,
    JobSpec,
    Kind,
    Stub,
    Ticket,
    Trace,
    TreeInput,
    decode_part,
    specs_to_plain,
)
from durable.payloads import PayloadError
from tests.fuzz.mutation import data_mutator
from tests.fuzz.running import Decoder

SPECS = [
    JobSpec(NO_PARENT, Kind.ACTIVITY, "pay", "1.2", payloads.encode({"amount": 5}), at_us=1_900_000_000_000_000),
    JobSpec(0, Kind.ORCHESTRATOR, "ship", "0", None, RunCondition.ON_FAILURE_OR_CANCELLED, delay_us=60_000_000),
    JobSpec(
        1,
        Kind.NAME,
        "anything",
        retries=3,
        intervals_us=(1, 2),
        timeout_us=5,
        priority=Priority.HIGH,
        description="é, the last one",
    ),
]
DETAILS = FailureDetails("shop.Declined", "no money", "  File …\n", FailureDetails("ValueError", "x"))
COMMANDS = [
    Command(Do.ADD, "0/1/2", 0, jobs=SPECS),
    Command(Do.CANCEL, "mark", reason="enough"),
    Command(Do.CHANGE, "mark", 3, changes={"delay_us": 5, "priority": Priority.LOW, "request": None}),
    Command(Do.DELETE, "mark", 3),
]


def _of_payload(
    name: str, seeds: list[Any], read: Callable[[Any], Any], write: Callable[[Any], Any]
) -> tuple[str, Decoder]:
    """Return the decoder of something that is a payload's value."""
    return name, Decoder(
        name,
        data_mutator([payloads.encode(seed) for seed in seeds]),
        lambda data: read(payloads.decode(data)),
        lambda value: payloads.encode(write(value)),
        PayloadError,
    )


def _of_bytes(name: str, values: list[Any], read: Callable[[bytes], Any]) -> tuple[str, Decoder]:
    seeds = [value.encode() for value in values]
    return name, Decoder(name, data_mutator(seeds), read, lambda value: value.encode(), PayloadError)


JOB_DECODERS = dict(
    (
        _of_payload("job-tree", [TreeInput(SPECS, 2).to_plain()], TreeInput.decode, TreeInput.to_plain),
        _of_payload("job-tree-part", [specs_to_plain(SPECS[1:])], lambda plain: decode_part(plain, 1), specs_to_plain),
        _of_payload("job-command", [command.to_plain() for command in COMMANDS], Command.decode, Command.to_plain),
        _of_bytes("job-ticket", [Ticket(3, None, 5), Ticket(7, 3, 1_900_000_000_000_000)], Ticket.decode),
        _of_bytes("job-stub", [Stub(5), Stub(5, "why", [(0, SPECS), (1, SPECS[:1])])], Stub.decode),
        _of_bytes(
            "job-trace",
            [
                Trace("pay", JobStatus.FAILED, b"\x05", None, DETAILS, 3),
                Trace("pay", JobStatus.DONE, None, b"\x05", None, None),
            ],
            Trace.decode,
        ),
    )
)
