"""The chapter on testing is right: its first program runs, and gives the history that it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from durable.testing import Environment

CHAPTER = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_first_test_passes_and_gives_the_history_shown() -> None:
    program = re.findall(r"^```python\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL)[0]
    names: dict[str, Any] = {"__name__": "chapter"}
    exec(compile(program, "testing.md", "exec", dont_inherit=True), names)
    names["test_the_bill_is_paid_after_a_month"]()

    async def read(env: Environment) -> str:
        env.replace("charge", lambda amount: f"paid {amount}")
        await env.client.run(names["billing"], 7, instance_id="bill")
        return env.history_text("bill")

    assert f"```\n{Environment(names['app']).run(read)}```" in CHAPTER
