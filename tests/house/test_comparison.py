"""The comparison in the documents names tests that are there; a row without one says what is missing."""

from __future__ import annotations

import re

from tests.house.source_tree import ROOT


def test_each_row_of_the_comparison_names_a_test_that_is_there_or_says_that_it_is_not_yet() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]
    shown = [row for row in rows if not row[0].startswith("**")]
    assert len(shown) > 50
    wrong = []
    for row in shown:
        feature, ours, test = row[0], row[4], row[5]
        if test == "—":
            wrong += [] if ours.startswith("not yet: ") else [f"{feature}: neither a test nor a reason"]
            continue
        path, _, name = test.strip("`").partition("::")
        file = ROOT / "tests" / path
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not re.search(rf"^(async )?def {name or 'test_'}", source, re.MULTILINE):
            wrong.append(f"{feature}: there is no {test}")
    assert not wrong, "\n".join(wrong)
