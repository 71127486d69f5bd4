"""What the demo prints: a bar on a terminal, plain lines in a pipe, and the report."""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TextIO

from samples.demo.files import Counts
from samples.demo.indexing import Report

BAR_WIDTH = 40


class Screen:
    """Lines of text, with a progress bar below them where the output is a terminal."""

    def __init__(self, output: TextIO, goal: int) -> None:
        self._output = output
        self._goal = goal
        self._tenths_shown = 0
        self._bar_shown = ""

    def say(self, line: str) -> None:
        """Print a line, above the bar."""
        if self._bar_shown:
            print(f"\r{' ' * len(self._bar_shown)}\r", end="", file=self._output)
            self._bar_shown = ""
        print(line, file=self._output, flush=True)

    def show_progress(self, done: int) -> None:
        """Show how many of the activities have run at least once."""
        if self._output.isatty():
            self._draw_bar(done)
        elif (tenths := 10 * done // self._goal) > self._tenths_shown:
            self._tenths_shown = tenths
            self.say(f"{10 * tenths:3} % of {self._goal:,} activities")

    def _draw_bar(self, done: int) -> None:
        filled = BAR_WIDTH * done // self._goal
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done:,} of {self._goal:,} activities"
        if bar != self._bar_shown:
            self._bar_shown = bar
            print(f"\r{bar}", end="", file=self._output, flush=True)


def print_report(report: Report, recovery: str, runs: Counter[str], screen: Screen) -> None:
    """Print what was counted, what ran twice, and how the recovery went."""
    total = report.total
    twice = sum(1 for times in runs.values() if times > 1)
    screen.say("")
    screen.say(f"Report: {total.files:,} files in {report.folders:,} folders")
    screen.say(f"  {total.lines:,} lines, {total.words:,} words, {total.size:,} bytes, SHA-256 {total.sha256[:16]}...")
    for entry in report.largest:
        screen.say(f"  {entry.counts.lines:9,} lines in {entry.counts.files:4,} files of {entry.folder}")
    screen.say(f"Activities: {len(runs):,} calls took {runs.total():,} runs; {twice:,} ran twice because of the kill,")
    screen.say("  and the outcome of each counts once")
    screen.say(f"Recovery: {recovery}")


def print_mismatch(total: Counts, expected: Counts, activities: int, ran: int, changed: list[str]) -> None:
    """Say what is wrong with the totals, and whether somebody changed the files meanwhile."""
    print("Proof FAILED.")
    print(f"  with the framework:    {total}\n  without the framework: {expected}")
    print(f"  {activities:,} activities were expected, {ran:,} ran")
    if changed:
        print("  These files were changed while the demo ran, so that the two counts may rightly differ:")
        for path in changed[:10]:
            print(f"    {path}")


def print_where_to_look(instance_id: str, store: str, home: Path) -> None:
    """Say how the store can be looked at: what has happened is in it, the kill included."""
    durable = Path(sys.executable).with_name("durable")
    shown = str(durable.relative_to(Path.cwd())) if durable.is_relative_to(Path.cwd()) else str(durable)
    command, option = shlex.quote(shown), f"--store {shlex.quote(store)}"
    print("\nWhat happened is in the store; the kill is an event in the timeline. Look at it:")
    print(f"  {command} show {instance_id} {option}")
    print(f"  {command} dashboard {option}")
    print(f"and when you have seen enough: rm -r {shlex.quote(str(home))}")
