"""Every exception can be described, whatever it does, and the description stays bounded and comes back from its payload."""

from __future__ import annotations

import dataclasses
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.errors import (
    ActivityFailedError,
    FailureDetails,
    NonRetryableError,
    OrchestrationFailedError,
    SubOrchestrationFailedError,
)
from durable.failures import (
    INNER_DEPTH_MAX,
    TEXT_BYTES_MAX,
    decode_details,
    describe,
    encode_details,
    from_plain,
    to_plain,
)
from durable.payloads import PayloadError, encode


class CardDeclinedError(ValueError):
    pass


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def levels(details: FailureDetails) -> list[FailureDetails]:
    return [details, *(levels(details.inner) if details.inner else [])]


def assert_bounded(details: FailureDetails) -> None:
    assert len(levels(details)) <= INNER_DEPTH_MAX + 1
    for level in levels(details):
        assert len(level.message.encode()) <= TEXT_BYTES_MAX
        assert len(level.stack_trace.encode()) <= TEXT_BYTES_MAX
    assert decode_details(encode_details(details)) == details


def test_type_message_bases_and_stack_are_recorded() -> None:
    details = describe(raised(CardDeclinedError("card 7 was declined")))
    assert details.error_type == f"{__name__}.CardDeclinedError"
    assert details.message == "card 7 was declined"
    assert details.error_bases == ("ValueError", "Exception", "BaseException")
    assert "in raised" in details.stack_trace
    assert "raise error from cause" in details.stack_trace
    assert details.inner is None
    assert not details.non_retryable
    assert details.is_caused_by(ValueError)
    assert not details.is_caused_by(KeyError)


@pytest.mark.parametrize("text", ["", "multi\nline\n", "  spaces  ", "ünïcode 🎉", "\x00"])
def test_the_message_is_exactly_the_text_of_the_exception(text: str) -> None:
    assert describe(ValueError(text)).message == text
    assert describe(KeyError(text)).message == repr(text)
    assert describe(ValueError()).message == ""


def test_only_a_non_retryable_error_is_non_retryable() -> None:
    class DeclinedError(NonRetryableError):
        pass

    assert describe(DeclinedError("x")).non_retryable
    assert not describe(raised(ValueError("x"), DeclinedError("y"))).non_retryable


def test_the_cause_goes_before_the_context() -> None:
    error = ValueError("x")
    error.__context__ = KeyError("context")
    error.__cause__ = OSError("cause")
    assert describe(error).inner == describe(OSError("cause"))


def test_the_context_is_recorded_unless_it_is_suppressed() -> None:
    def fail(*, suppress: bool) -> None:
        try:
            raise KeyError("context")
        except KeyError:
            if suppress:
                raise ValueError("x") from None
            raise ValueError("x")  # noqa: B904

    with pytest.raises(ValueError) as caught:
        fail(suppress=False)
    inner = describe(caught.value).inner
    assert inner is not None
    assert inner.error_type == "KeyError"
    with pytest.raises(ValueError) as caught:
        fail(suppress=True)
    assert describe(caught.value).inner is None


def test_of_a_group_the_first_is_recorded_and_the_message_says_how_many() -> None:
    group = ExceptionGroup("two failed", [CardDeclinedError("a"), KeyError("b")])
    details = describe(raised(group, OSError("cause")))
    assert details.message == "two failed (2 sub-exceptions)"
    assert details.inner is not None
    assert details.inner.message == "a"


def test_a_failed_task_carries_the_details_of_what_failed() -> None:
    declined = describe(raised(CardDeclinedError("card"), OSError("line")))
    failed = ActivityFailedError(declined, task_name="pay")
    details = describe(raised(failed, KeyError("of the orchestrator")))
    assert details.error_type == "durable.errors.ActivityFailedError"
    assert details.message == str(failed)
    assert details.inner == declined
    assert details.is_caused_by(OSError)
    assert describe(OrchestrationFailedError("id", declined)).inner == declined


def test_notes_are_kept_beside_the_message() -> None:
    error = ValueError("x")
    error.add_note("while paying order 7")
    assert describe(error).message == "x"
    assert "while paying order 7" in describe(error).stack_trace


def test_a_long_message_is_cut_with_a_mark() -> None:
    details = describe(ValueError("é" * 1_000_000))
    assert details.message.startswith("é" * 1000)
    assert details.message.endswith("… [cut, 1000000 characters in all]")
    assert_bounded(details)


@pytest.mark.parametrize("limit", [0, 1, 10, 100, 1000])
def test_the_limit_holds_whatever_it_is(limit: int) -> None:
    for text in ("x" * 5000, "🎉" * 5000, "\ud800" * 5000):
        error = raised(ValueError(text))
        error.add_note(text)
        details = describe(error, limit=limit)
        assert len(details.message.encode()) <= limit
        assert len(details.stack_trace.encode()) <= limit


def test_a_text_at_the_limit_is_not_cut() -> None:
    assert describe(ValueError("x" * TEXT_BYTES_MAX)).message == "x" * TEXT_BYTES_MAX


def test_lone_surrogates_are_written_out() -> None:
    assert describe(ValueError("a\ud800b")).message == "a\\ud800b"


def test_an_endless_recursion_keeps_both_ends_of_its_stack() -> None:
    def outer(depth: int) -> int:
        return inner(depth) + 1

    def inner(depth: int) -> int:
        return outer(depth + 1) + 1

    def begin() -> int:
        return outer(0)

    with pytest.raises(RecursionError) as caught:
        begin()
    details = describe(caught.value)
    assert "in begin" in details.stack_trace
    assert "frames left out" in details.stack_trace
    assert details.stack_trace.count("in inner") > 30
    assert_bounded(details)


def test_causes_in_a_circle_end() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    details = describe(first)
    assert [level.error_type for level in levels(details)] == ["ValueError", "KeyError"]


def test_of_a_long_chain_the_outer_ones_and_the_root_are_kept() -> None:
    error: BaseException = CardDeclinedError("root")
    for number in range(2000):
        error = raised(RuntimeError(f"level {number}"), error)
    details = describe(error)
    assert details.message == "level 1999"
    assert levels(details)[-1].message == "root"
    assert details.is_caused_by(CardDeclinedError)
    assert_bounded(details)


def test_a_failure_that_rises_through_a_thousand_children_keeps_its_root() -> None:
    details = describe(raised(CardDeclinedError("root " + "x" * 100_000)))
    for _ in range(1000):
        details = describe(raised(SubOrchestrationFailedError(details, task_name="child")))
    assert details.is_caused_by(CardDeclinedError)
    assert_bounded(details)


# ---- exceptions that misbehave


class HostileError(Exception):
    """Does what `conduct` says wherever it is asked for something."""

    def __init__(self, conduct: Any) -> None:
        self.conduct = conduct

    def __str__(self) -> str:
        return self.conduct()  # type: ignore[no-any-return]

    @property
    def __cause__(self) -> Any:
        return self.conduct()

    @property
    def __notes__(self) -> Any:
        return self.conduct()

    @property
    def __class__(self) -> Any:
        return self.conduct()


class OddText(str):
    def encode(self, *_arguments: Any, **_options: Any) -> bytes:
        raise RuntimeError("no")

    def __getitem__(self, _key: Any) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


def raise_(error: BaseException) -> Any:
    raise error


def recurse() -> Any:
    return recurse()


@pytest.mark.parametrize(
    "conduct",
    [
        lambda: raise_(ValueError("no text")),
        lambda: raise_(SystemExit(3)),
        lambda: raise_(KeyboardInterrupt()),
        lambda: raise_(HostileError(lambda: None)),
        lambda: None,
        lambda: 5,
        lambda: OddText("odd"),
        lambda: "\ud800" * 100_000,
        lambda: [5, object(), "\ud800", OddText("odd")],
        recurse,
    ],
)
def test_an_exception_that_misbehaves_is_described(conduct: Any) -> None:
    details = describe(raised(HostileError(conduct)))
    assert details.error_type == f"{__name__}.HostileError"
    assert_bounded(details)


def test_a_message_that_cannot_be_had_says_so() -> None:
    assert describe(HostileError(lambda: raise_(KeyError("x")))).message == "(no message: its __str__ raised KeyError)"


def test_a_class_with_a_strange_name_or_ancestry_is_described() -> None:
    class Meta(type):
        @property
        def __module__(cls) -> str:
            raise RuntimeError("no module")

        @property
        def __mro__(cls) -> Any:
            raise RuntimeError("no ancestry")

    strange = Meta("S" * 5000, (ValueError,), {})
    details = describe(strange("x"))
    assert len(details.error_type) <= 512
    assert details.is_caused_by(ValueError)
    assert_bounded(details)


def test_carried_details_of_any_form_are_bounded() -> None:
    loop = FailureDetails("A", "a")
    object.__setattr__(loop, "inner", loop)
    huge = FailureDetails("B" * 10_000, "m" * 1_000_000, "s" * 1_000_000, error_bases=("C",) * 10_000)
    broken = dataclasses.replace(huge, message=None, error_bases=5)  # type: ignore[arg-type]
    for carried in (loop, huge, broken, None, "text"):
        assert_bounded(describe(ActivityFailedError(carried)))  # type: ignore[arg-type]


@settings(max_examples=50)
@given(
    st.recursive(
        st.text(st.characters()).map(ValueError),
        lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: BaseExceptionGroup("group", parts)),
        max_leaves=5,
    )
)
def test_any_tree_of_groups_is_described(error: BaseException) -> None:
    assert_bounded(describe(error))


def test_the_largest_details_can_be_stored() -> None:
    details: FailureDetails | None = None
    for _ in range(40):
        details = FailureDetails(
            "é" * 5000, "é" * 500_000, "é" * 500_000, inner=details, error_bases=("é" * 5000,) * 200
        )
    assert details is not None
    assert_bounded(decode_details(encode_details(details)))


# ---- plain data


def test_details_come_back_from_plain_data_and_from_their_payload() -> None:
    details = describe(raised(NonRetryableError("x"), raised(KeyError("y"), OSError("z"))))
    assert from_plain(to_plain(details)) == details
    assert decode_details(encode_details(details)) == details


def test_fields_of_other_versions_are_tolerated() -> None:
    plain = [{"error_type": "A", "message": "m", "advice": {"new": 1}}, {"error_type": "B"}]
    assert from_plain(plain) == FailureDetails("A", "m", inner=FailureDetails("B", ""))


@pytest.mark.parametrize(
    "plain",
    [None, 5, {}, [], [5], [{"message": 5}], [{"error_bases": "AB"}], [{"error_bases": [1]}], [{"non_retryable": 1}]],
    ids=str,
)
def test_plain_data_of_another_form_is_refused(plain: Any) -> None:
    with pytest.raises(PayloadError):
        from_plain(plain)
    with pytest.raises(PayloadError):
        decode_details(encode(plain))


def test_changed_payloads_raise_nothing_else() -> None:
    chance = random.Random(10)
    payload = encode_details(describe(raised(ValueError("x"), KeyError("y"))))
    for _ in range(5000):
        data = bytearray(payload)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            decode_details(bytes(data[: chance.randint(0, len(data))]))
        except PayloadError:
            pass


def test_describing_leaves_the_exception_as_it_was() -> None:
    error = raised(ValueError("x"), KeyError("y"))
    before = (error.args, error.__cause__, error.__traceback__, sys.getrefcount(error))
    describe(error)
    assert before == (error.args, error.__cause__, error.__traceback__, sys.getrefcount(error))


# ---- texts for people: each fact once


@pytest.mark.parametrize(
    ("details", "text"),
    [
        (FailureDetails("ValueError", "no card"), "charge: ValueError: no card"),
        (FailureDetails("shop.CardDeclined", ""), "charge: shop.CardDeclined"),
        (FailureDetails("durable.errors.NonRetryableError", "never"), "charge: NonRetryableError: never"),
        (
            FailureDetails("TimeoutError", "attempt 1 of activity 'charge' ran into its timeout of 1 s"),
            "TimeoutError: attempt 1 of activity 'charge' ran into its timeout of 1 s",
        ),
        (
            FailureDetails("durable.errors.InvalidInputError", "input of activity 'charge': expected a whole number"),
            "InvalidInputError: input of activity 'charge': expected a whole number",
        ),
    ],
)
def test_the_text_of_a_failed_task_names_each_fact_once(details: FailureDetails, text: str) -> None:
    assert str(ActivityFailedError(details, task_name="charge", instance_id="order-7")) == text


def test_a_group_names_the_first_of_what_it_holds() -> None:
    group = describe(ExceptionGroup("two went wrong", [ValueError("no card"), KeyError("x")]))
    assert str(group) == "ExceptionGroup: two went wrong (2 sub-exceptions), first ValueError: no card"
    outer = describe(BaseExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("no card")])]))
    assert str(outer).endswith("(1 sub-exception), first ValueError: no card")


def test_a_failure_that_comes_from_deep_down_reads_as_a_path() -> None:
    activity = ActivityFailedError(FailureDetails("ValueError", "no card"), task_name="charge")
    child = SubOrchestrationFailedError(describe(activity), task_name="pay_order")
    assert str(child) == "pay_order: charge: ValueError: no card"
    assert str(OrchestrationFailedError("order-7", describe(child))) == (
        "orchestration 'order-7' failed: pay_order: charge: ValueError: no card"
    )
