"""An author of a provider outside this repository can run the suite as docs/providers.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from durable.testing.conformance import GROUPS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")

# A store of somebody else: here, the memory store under another scheme.
MY_STORE = """
import zlib
from urllib.parse import urlsplit

import durable_memory


def connect(url, ports):
    parts = urlsplit(url)
    assert parts.scheme == "mystore"
    name = zlib.crc32(parts.path.encode())
    return durable_memory.connect(f"memory://{name}?message_bytes_max=100000&{parts.query}".rstrip("&"), ports)
"""


def test_the_file_of_the_guide_runs_the_whole_suite(tmp_path: Path) -> None:
    """In a folder of its own, with pytest alone: no settings, conftest or plugin of this repository."""
    [example] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(example.splitlines()) <= 20
    (tmp_path / "test_my_store.py").write_text(example, encoding="utf-8")
    (tmp_path / "my_store.py").write_text(MY_STORE, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed.group(1)) > 200
    assert "skipped" not in ran.stdout


def test_the_guide_names_every_group() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)) == set(GROUPS)
