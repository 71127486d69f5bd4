"""What of a schedule travels as bytes, to be fuzzed: see `running.Decoder`."""

from __future__ import annotations

from durable import payloads
from durable.model import OverlapPolicy
from durable.payloads import PayloadError
from durable.schedules.wire import Command, Do, Occurrence, ScheduleSpec, Standing, TargetKind, TargetSpec
from tests.fuzz.mutation import data_mutator
from tests.fuzz.running import Decoder

CRON = ScheduleSpec(
    TargetSpec(TargetKind.ORCHESTRATOR, "report", "1.2", payloads.encode({"a": 1})),
    cron="*/5 8-18 * * 1",
    timezone="Europe/Berlin",
    overlap=OverlapPolicy.BUFFER_ALL,
    catch_up_us=5,
    jitter_us=7,
    start_us=3,
    end_us=1_900_000_000_000_000,
)
EVERY = ScheduleSpec(TargetSpec(TargetKind.NAME, "x", None, None), interval_us=60_000_000)
STANDINGS = [
    Standing(EVERY, 5, 6),
    Standing(
        CRON,
        5,
        6,
        [7, 8],
        is_paused=True,
        note="é, for now",
        buffered=[3],
        running=[Occurrence(2, "report/2", "run", is_told_to_end=True)],
        started=3,
        skipped=4,
        missed=5,
        recent=[(1, 2)],
        declared=EVERY,
        answers={"mark": None, "other": "no"},
    ),
]
COMMANDS = [
    Command(Do.PAUSE, "mark", "why"),
    Command(Do.RESUME, "mark"),
    Command(Do.START, "mark", times=[1, 2], overlap=OverlapPolicy.ALLOW_ALL),
    Command(Do.CHANGE, "mark", changes={"cron": "* * * * *", "target": CRON.target, "jitter_us": 0}),
    Command(Do.DECLARE, "mark", changes={"target": EVERY.target, "interval_us": 5}),
]

SCHEDULE_DECODERS = {
    "schedule-standing": Decoder(
        "schedule-standing",
        data_mutator([payloads.encode(standing.to_plain()) for standing in STANDINGS]),
        lambda data: Standing.decode(payloads.decode(data)),
        lambda standing: payloads.encode(standing.to_plain()),
        PayloadError,
    ),
    "schedule-command": Decoder(
        "schedule-command",
        data_mutator([payloads.encode(command.to_plain()) for command in COMMANDS]),
        lambda data: Command.decode(payloads.decode(data)),
        lambda command: payloads.encode(command.to_plain()),
        PayloadError,
    ),
}
