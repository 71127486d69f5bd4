"""Directs the demo: `python -m samples.demo [FOLDER ...] [--remove]`. Exit code 0 only if the totals are proved right."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from durable import Client, DurableError
from samples.demo import files
from samples.demo.indexing import Report, index_everything
from samples.demo.run_log import RunLog
from samples.demo.screen import Screen, print_mismatch, print_report, print_where_to_look

REPOSITORY = Path(__file__).resolve().parents[2]
INSTANCE_ID = "demo"
PLAY_SECONDS_MAX = 55.0
POLL_SECONDS = 0.01


class WorkerDiedError(Exception):
    """The worker process ended although nobody killed it."""


@contextlib.contextmanager
def worker_process(store: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker; stop it at the end, gently and then for certain. It also stops by itself if this process dies."""
    command = [sys.executable, "-m", "samples.demo.worker", store]
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()  # asks the worker to drain and leave
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


async def follow(process: subprocess.Popen[bytes], log: RunLog, screen: Screen, until: Callable[[], bool]) -> None:
    """Show progress until the condition holds."""
    while not until():
        if process.poll() is not None:
            raise WorkerDiedError(f"worker process {process.pid} ended by itself with code {process.returncode}")
        await asyncio.sleep(POLL_SECONDS)
        log.read_on()
        screen.show_progress(len(log.runs))


async def play(roots: list[str], activities: int, home: Path, screen: Screen) -> tuple[Report, RunLog, str]:
    """Run the orchestration, kill its worker half-way, start another; return the report and how the recovery went."""
    store = store_in(home)
    log = RunLog(home / "runs.log")
    half = max(1, activities // 2)
    async with asyncio.timeout(PLAY_SECONDS_MAX), Client(store) as client:
        handle = await client.start(index_everything, roots, instance_id=INSTANCE_ID)
        with worker_process(store, log.environment(hold_at=half)) as process:
            screen.say(f"Worker process {process.pid} started.")
            await follow(process, log, screen, until=lambda: log.runs.total() >= half)
            screen.say(f"Half-way, after {log.runs.total():,} activities: SIGKILL for worker process {process.pid}.")
            process.kill()
            if process.wait() != -signal.SIGKILL:
                raise WorkerDiedError(f"worker process {process.pid} had ended before the kill: {process.returncode}")
        # Nothing in the program waits for this event: it is there for whoever looks at the history later.
        await handle.raise_event(f"worker {process.pid} killed")
        started = time.monotonic()
        with worker_process(store, log.environment(hold_at=None)) as process:
            screen.say(f"Worker process {process.pid} started on the same file.")
            result = asyncio.create_task(handle.result())
            await follow(process, log, screen, until=result.done)
            log.read_on()
            report = await result
    return report, log, describe_recovery(started, log, process.pid)


def store_in(home: Path) -> str:
    return f"sqlite:///{home / 'demo.db'}"


def describe_recovery(started: float, log: RunLog, process: int) -> str:
    """Say how long it took from the start of the second process to its first finished activity."""
    total = log.first_run_at[process] - started
    python = log.ready_at[process] - started
    return (
        f"{total:.2f} s from the start of the new process to the first activity that it finished;\n"
        f"  {python:.2f} s of them were Python starting and importing, {total - python:.2f} s the recovery itself"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="what to index (this repository and Python's library)"
    )
    parser.add_argument("--remove", action="store_true", help="remove the store and the log of runs at the end")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    roots = [str(Path(folder).resolve()) for folder in options.folders]
    roots = roots or [str(REPOSITORY), sysconfig.get_path("stdlib")]
    began = time.time()
    folders = files.folders_with_text(roots)
    count = sum(len(files.text_files(folder)) for folder in folders)
    if not 0 < count <= files.FILES_MAX:
        print(
            f"{count:,} text files found in {', '.join(roots)}; the demo takes 1 to {files.FILES_MAX:,}",
            file=sys.stderr,
        )
        return 2
    home = Path(tempfile.mkdtemp(prefix="durable-demo-"))
    activities = 1 + len(folders) + count  # the list of folders, a list of files for each, and each file
    screen = Screen(sys.stdout, activities)
    screen.say(f"Indexing {count:,} text files in {len(folders):,} folders below {' and '.join(roots)}.")
    screen.say(f"Store: {home / 'demo.db'}, {'removed' if options.remove else 'kept'} at the end.")
    is_kept = not options.remove
    try:
        report, log, recovery = asyncio.run(play(roots, activities, home, screen))
        expected = files.count_everything(roots)
    except (WorkerDiedError, DurableError, TimeoutError) as error:
        screen.say(f"The demo failed: {type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        is_kept = False
        screen.say("Interrupted.")
        return 130
    finally:
        if not is_kept:
            shutil.rmtree(home, ignore_errors=True)
    print_report(report, recovery, log.runs, screen)
    if report.total != expected or len(log.runs) != activities:
        print_mismatch(report.total, expected, activities, len(log.runs), files.changed_since(roots, began))
        return 1
    print(f"Proof: counted again without the framework, all totals are the same. {time.time() - began:.1f} s in all.")
    if is_kept:
        print_where_to_look(INSTANCE_ID, store_in(home), home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
