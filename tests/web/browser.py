"""A real Chromium, and a hub with a worker and a site in a thread beside it.

The browser is one that is there already: the tests never download one. `DURABLE_CHROMIUM` names another than the first
of those that are found on the path; with `DURABLE_REQUIRE_BROWSER=1` a machine without one fails instead of skipping.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from durable import App, Client, Worker
from durable.web import Access, WebApp, create_app
from tests.web.parts import served

T = TypeVar("T")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-color-profile=srgb", "--hide-scrollbars"),
)
WAIT_MS = 30_000  # a page takes a tenth of a second; a machine that is busy with other tests may take long


def find_chromium() -> str | None:
    """The path of a Chromium."""
    named = os.environ.get("DURABLE_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def chromium_or_skip() -> str:
    """The path of a Chromium; skips where there is none, or fails where one is required."""
    found = find_chromium()
    if found is None:
        told = "no Chromium is installed (Debian: apt-get install chromium): the dashboard was not tried in a browser"
        if os.environ.get("DURABLE_REQUIRE_BROWSER") == "1":
            pytest.fail(told)
        pytest.skip(told)
    return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_or_skip(), args=[*ARGUMENTS])
        try:
            yield started
        finally:
            started.close()


class Watched:
    """A page of which everything is noted that should not be: errors, dialogs, refusals of its policy, foreign requests."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.faults: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => console.error('policy', event.violatedDirective));"
        )
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("console", lambda line: self._hear(line.type, line.text))
        self.page.on("request", lambda request: self._see(request.url, address))

    def _hear(self, kind: str, text: str) -> None:
        # A refused request is told of by the browser itself; what matters of it is what the page says.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.faults.append(f"{kind}: {text}")

    def _see(self, url: str, address: str) -> None:
        if not url.startswith(address + "/"):
            self.faults.append(f"request: {url}")

    def go(self, address: str, path: str, heading: str | None = None) -> None:
        """Open another page of the dashboard, and wait until it is there: what was shown before does not count."""
        self.page.evaluate("document.querySelector('main h1')?.setAttribute('data-left', '')")
        self.page.goto(f"{address}/#{path}")
        self.page.locator("main h1:not([data-left])").first.wait_for()
        if heading is not None:
            self.page.wait_for_function(
                "(text) => document.querySelector('main h1')?.textContent === text", arg=heading
            )


class Hub:
    """A worker and a site that run in a loop of their own, in a thread, while the test's own thread drives the browser."""

    def __init__(
        self, app: App, store: str, make: Callable[[Client], WebApp] | None = None, name: str = "worker-1"
    ) -> None:
        self._app = app
        self._store = store
        self._make = make or (lambda client: create_app(client, access=Access.on_loopback()))
        self._name = name
        self._ready: threading.Event = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self.error: BaseException | None = None
        self.address = ""
        self.client: Client

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        try:
            async with Worker(self._app, self._store, name=self._name) as worker:
                self.client = worker.client
                async with served(self._make(worker.client)) as self.address:
                    self._ready.set()
                    await self._over.wait()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._ready.set()

    def __enter__(self) -> Hub:
        self._thread.start()
        self._ready.wait(30)
        assert self.address, self.error
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the hub's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
