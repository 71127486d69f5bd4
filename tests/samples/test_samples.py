"""Every sample does what it says, on both stores.

Method: import the sample, run its `main` on an empty store, compare what it returns. One sample is also run as users run
it, as a script.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from durable.jobs import JobStatus
from samples import (
    bank_transfer,
    both_styles,
    child_orchestrations,
    fan_out_fan_in,
    function_chaining,
    http_polling,
    human_approval,
    job_adds_a_job,
    job_chain,
    job_recovery,
    jobs_side_by_side,
    live_order,
    monitor,
    nightly_chain,
    retries_and_heartbeats,
    saga,
    tested_saga,
)

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"


async def test_function_chaining_hands_each_result_to_the_next_step(store_url: str) -> None:
    outcome = await function_chaining.main(store_url)
    assert outcome.startswith("shipped against receipt ")
    assert outcome.endswith(" over 15.50")


async def test_fan_out_fan_in_counts_the_words_of_all_files(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import this\nimport that\n")
    (tmp_path / "b.py").write_text("import those\nfrom this import that\n")
    words = await fan_out_fan_in.main(store_url, str(tmp_path))
    assert [tuple(entry) for entry in words[:3]] == [("import", 4), ("this", 2), ("that", 2)]


async def test_an_approval_is_paid_out_and_silence_is_a_refusal(store_url: str) -> None:
    assert await human_approval.main(store_url) == ["120 paid to Ada", "nobody answered Bob in time"]


async def test_a_report_is_polled_until_it_is_there() -> None:
    http_polling.Reports.looks = 0
    assert await http_polling.main() == 3


async def test_an_order_is_looked_at_and_changed_while_it_runs(store_url: str) -> None:
    lines = {"pen": 3, "ink": 1}
    assert await live_order.main(store_url) == [6, 7, "we sell no rocket", lines, lines]


async def test_the_monitor_remembers_across_generations_and_stops_when_told(store_url: str) -> None:
    watch = await monitor.main(store_url, "5")
    assert watch.looks >= 5
    assert 0 < watch.fullest_percent <= 100


async def test_the_saga_undoes_what_it_did_in_reverse_order(store_url: str) -> None:
    booked, undone = await saga.main(store_url)
    assert booked == ["train for Ada", "hotel for Ada"]
    assert undone == ["failed: no rocket left for Bob", "cancelled: hotel for Bob", "cancelled: train for Bob"]


async def test_the_tested_saga_books_all_or_nothing(store_url: str) -> None:
    tested_saga.reserved.clear()
    assert await tested_saga.main(store_url) == ["booked", "not booked: there is no rocket left"]
    assert tested_saga.reserved == {"train for Ada", "hotel for Ada"}


async def test_a_failed_child_does_not_end_the_others(store_url: str) -> None:
    assert await child_orchestrations.main(store_url) == {
        "north": "2 letters",
        "south": "failed: send_letter: ValueError: ada@example.org has no letter box",
    }


async def test_an_attempt_goes_on_where_the_heartbeats_of_the_one_before_say(store_url: str) -> None:
    assert 2 <= await retries_and_heartbeats.main(store_url) <= 10


async def test_the_bank_neither_makes_nor_loses_money(store_url: str) -> None:
    accounts = await bank_transfer.main(store_url)
    assert sorted(accounts) == ["Ada", "Bob", "Eve"]
    assert sum(accounts.values()) == 300
    assert min(accounts.values()) >= 0


async def test_both_styles_give_the_same_result_and_ask_for_the_same(store_url: str) -> None:
    with_generator, with_coroutine = await both_styles.main(store_url)
    assert with_generator == with_coroutine == ["Hello, Tokyo!", "Hello, London!", "Hello, Oslo!"]


def test_both_styles_leave_the_same_history(capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    asyncio.run(both_styles.main())
    histories = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert len(histories) == 2
    assert Counter(histories[0]) == Counter(histories[1])


async def test_a_chain_of_jobs_hands_on_what_it_found(store_url: str) -> None:
    tree = await job_chain.main(store_url, "0.05")
    [payment] = tree.children
    [confirmation] = payment.children
    assert payment.result.endswith(" over 15.50")
    assert confirmation.result == f"order 7: {payment.result}"


async def test_a_job_adds_the_shipment_only_where_there_are_goods(store_url: str) -> None:
    shipped, empty = await job_adds_a_job.main(store_url, "0.01")
    assert [child.result for child in shipped.children] == ["a kettle on the way for order 7"]
    assert (empty.status, empty.result, empty.children) == (JobStatus.DONE, False, ())


async def test_a_failed_payment_tells_the_customer_and_confirms_nothing(store_url: str) -> None:
    payment = await job_recovery.main(store_url, "0.05")
    assert (payment.status, payment.attempts) == (JobStatus.FAILED, 3)
    assert {child.function: child.status for child in payment.children} == {
        "send_confirmation": JobStatus.SKIPPED,
        "notify_payment_failure": JobStatus.DONE,
    }


async def test_jobs_side_by_side_run_while_their_parent_does(store_url: str) -> None:
    tree = await jobs_side_by_side.main(store_url)
    told, _, _ = tree.children
    assert told.result == "told the customer while order 7 was IN_PROGRESS"
    assert {child.status for child in tree.children} == {JobStatus.DONE}


async def test_the_nightly_chain_reports_what_it_collected(store_url: str) -> None:
    tree = await nightly_chain.main(store_url)
    report, call = tree.children
    assert report.children[0].result == "to ada@example.org: 3 kettles, 12 cups"
    assert call.status is JobStatus.SKIPPED


def test_each_sample_is_run_by_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    untested = [path.stem for path in SAMPLES.glob("*.py") if f"await {path.stem}.main(" not in text]
    assert not untested


@pytest.mark.own_processes
def test_a_sample_runs_as_a_script(tmp_path: Path) -> None:
    for _ in range(2):  # the second time on the store that the first left
        script = subprocess.run(
            [sys.executable, str(SAMPLES / "function_chaining.py"), "sqlite:///chain.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert script.returncode == 0, script.stderr
        assert script.stdout.startswith("shipped against receipt")
    assert (tmp_path / "chain.db").exists()
