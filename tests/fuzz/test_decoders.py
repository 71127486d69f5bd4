"""Whatever comes in, each decoder answers with a value or with the error that it documents, in bounded time and memory.

Method: see `running`. Here a fixed sample of what `python -m tests.fuzz` does at length, changes chosen by Hypothesis, which
shrinks what it finds, and bombs made by hand.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import events as ev
from durable.errors import HistoryDamagedError, StoreError
from durable.messages import decode_activity, decode_arrivals, encode_arrivals
from durable.ports import system_ports
from durable.records import (
    DETAILS_LEVELS_MAX,
    Record,
    decode_record,
    details_from_plain,
    encode_record,
    register_event,
    unpack,
)
from durable.stores import connect
from durable.worker.live import OwnerState
from tests.fuzz import __main__ as command
from tests.fuzz.decoders import DECODERS, EVENTS, exported
from tests.fuzz.mutation import nested, packed
from tests.fuzz.running import Decoder, Violation, check, run

INPUTS = 2_000
DATA_DECODERS = sorted(DECODERS.keys() - {"instance-id", "event-name", "version", "tags"})


@pytest.mark.parametrize("name", DECODERS)
def test_whatever_comes_in_is_answered(name: str) -> None:
    tally = run(DECODERS[name], INPUTS, seed=0)
    assert not tally.violations, [(what, data.hex()) for what, data in tally.violations]
    assert tally.accepted, "nothing right was among the inputs, so that what was read was never written again"
    assert tally.refused


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), change=st.binary(max_size=12), place=st.integers(0, 400), keep=st.booleans())
def test_a_change_at_any_place_is_answered(name: str, seed: int, change: bytes, place: int, keep: bool) -> None:
    data = DECODERS[name].make(random.Random(seed))
    check(DECODERS[name], data[:place] + change + data[place + (0 if keep else len(change)) :])


MILLION = 1_000_000
BOMBS = {
    "arrays that each claim everything": (b"\xdd" + MILLION.to_bytes(4, "big")) * 900 + b"\x01" * MILLION,
    "arrays that each claim everything, in a short text": (b"\xdc\x10\x00") * 1_000 + b"\x01" * 4_000,
    "an array of four billion": b"\xdd\xff\xff\xff\xff" + b"\x01" * 3_000,
    "a map of four billion": b"\xdf\xff\xff\xff\xff" + b"\x01" * 3_000,
    "100,000 lists in one another": b"\x91" * 100_000 + b"\x01",
    "900 lists in one another": b"\x91" * 900 + b"\x01",
    "100,000 lists in one another, as text": b"[" * 100_000,
    "a million times nothing": b"\x90" * MILLION,
    "a string that claims four billion": b"\xdb\xff\xff\xff\xff" + b"x" * 3_000,
    "bytes over every limit": b"\xc6" + (3 * MILLION).to_bytes(4, "big") + b"x" * (3 * MILLION),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", DATA_DECODERS)
def test_a_bomb_takes_little_memory_and_time(name: str, bomb: str) -> None:
    data = BOMBS[bomb]
    check(DECODERS[name], data, measured=True)
    if name in ("record", "message", "history-export"):
        for inside in (packed([1, 5, False, [data]]), packed([3, [data]]), exported([data])):
            check(DECODERS[name], inside, measured=True)


# ---- what the fuzzer has found, and what it cannot tell from chance


def test_every_event_goes_through_a_record_and_a_message_unchanged() -> None:
    assert list(decode_record(encode_record(Record(7, EVENTS))).events) == EVENTS
    arrivals = [event for event in EVENTS if not event.is_request]
    assert decode_arrivals(encode_arrivals(arrivals, 4)) == (4, arrivals)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_field_of_another_type_is_damage(event: ev.HistoryEvent) -> None:
    layout, time, is_opening, [fields] = unpack(encode_record(Record(7, [event])))
    for index in range(1, len(fields)):
        for wrong in (1.5, [[]], {1: 2}, not isinstance(fields[index], bool) or 1):
            data = packed([layout, time, is_opening, [[*fields[:index], wrong, *fields[index + 1 :]]]])
            with pytest.raises(HistoryDamagedError):
                decode_record(data)


def test_a_message_cannot_bring_what_only_an_instance_itself_asks_for() -> None:
    for event in EVENTS:
        if event.is_request:
            with pytest.raises(HistoryDamagedError, match="only an instance itself"):
                decode_arrivals(encode_arrivals([event]))


def test_failures_inside_one_another_are_read_up_to_a_limit() -> None:
    def plain(levels: int) -> Any:
        inner = None
        for _ in range(levels):
            inner = ["E", "text", "", inner, False, []]
        return inner

    assert details_from_plain(plain(DETAILS_LEVELS_MAX)) is not None
    with pytest.raises(ValueError, match="more than 64"):
        details_from_plain(plain(DETAILS_LEVELS_MAX + 1))


def test_an_event_that_no_record_could_hold_is_refused_when_it_is_registered() -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True, slots=True)
    class Measured(ev.HistoryEvent):
        metres: float = 0.0
        code = 250

    with pytest.raises(TypeError, match="'metres'.*'float'"):
        register_event(Measured)


def test_an_error_text_does_not_hold_the_damaged_bytes() -> None:
    for decode in (decode_record, decode_arrivals, decode_activity):
        with pytest.raises(HistoryDamagedError) as caught:
            decode(packed([1, "x" * 100_000]))
        assert len(str(caught.value)) < 500


def test_what_an_owner_noted_is_kept_as_it_is_if_it_cannot_be_read() -> None:
    for plain in ([5, [], None, 0, {}], [{}, [[1]], None, 0, {}], [{}, [], [1, 2], 0, {}], [{}, [], None, True, {}]):
        state = OwnerState.decode(packed(plain))
        assert state.unreadable == packed(plain)
        assert state.encode() == packed(plain)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite:///a\nb.db", "a character that no URL has"),
        ("sqlite:///a\tb.db", "a character that no URL has"),
        ("sqlite:///\ud800.db", "a character that no URL has"),
        ("sqlite:///%ff.db", "is no URL"),
        ("sqlite://[", "is no URL"),
        ("sqlite:///a#b.db", "%23"),
        ("sqlite:///a.db#", "%23"),
        ("sqlite:///a.db?hub=", "'hub' is empty"),
        ("sqlite:///a.db?hub=a&hub=b", "'hub' is given twice"),
        ("sqlite:///a.db?hub=%00", "NUL"),
        ("sqlite:///a.db?hub=%ff", "is no URL"),
        ("memory://a/b", "is no memory store"),
        ("memory://[", "is no URL"),
        ("memory://x?message_bytes_max=²", "a number of bytes"),
        ("memory://x?message_bytes_max=" + "9" * 4_000, "a number of bytes"),
        ("sqlite://user:secret@host/a.db", "names no file"),
    ],
)
def test_a_url_is_refused_rather_than_changed_into_another(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        connect(url, system_ports())
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 500


# ---- the fuzzer itself


def _broken(read: Any) -> Decoder:
    return Decoder("broken", lambda chance: chance.randbytes(3), read, lambda value: bytes(value), ValueError)


def test_the_fuzzer_finds_each_kind_of_violation() -> None:
    def raises_another(data: bytes) -> bytes:
        raise KeyError(data)

    def says_too_much(data: bytes) -> bytes:
        raise ValueError("x" * 3_000)

    def forgets(data: bytes) -> bytes:
        return data[:-1]

    def takes_too_much(data: bytes) -> bytes:
        assert bytearray(100_000_000)
        return data

    found = {
        "raised KeyError": raises_another,
        "has 3000 characters": says_too_much,
        "another value": forgets,
        "bytes of memory": takes_too_much,
        "not written": lambda data: nested(data, 1),
    }
    for says, read in found.items():
        with pytest.raises(Violation, match=says):
            check(_broken(read), b"abc", measured=True)
    check(_broken(lambda data: data), b"abc", measured=True)


def test_the_same_seed_makes_the_same_inputs() -> None:
    made: list[list[bytes]] = []
    for seed in (5, 5, 6):
        inputs: list[bytes] = []
        run(_broken(lambda data, inputs=inputs: inputs.append(data) or data), 50, seed)
        made.append(inputs)
    assert made[0] == made[1] != made[2]


def test_the_command_reports_each_decoder_and_repeats_one_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(["--inputs", "20", "--decoder", "record", "--seed", "3"]) == 0
    assert "20 inputs" in capsys.readouterr().out
    monkeypatch.setitem(DECODERS, "record", _broken(lambda data: data[:-1]))
    assert command.main(["--inputs", "20", "--decoder", "record"]) == 1
    printed = capsys.readouterr().out
    assert "5 violations" in printed
    assert "again: python -m tests.fuzz --decoder broken --input" in printed
    assert command.main(["--decoder", "record", "--input", "616263"]) == 1
    assert command.main(["--decoder", "message", "--input", "616263"]) == 0
