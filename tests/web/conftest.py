"""One browser for all tests that use one, in a thread of its own, where their bodies run.

What drives the browser keeps an event loop running in its thread for as long as it lives, and the thread of the tests runs
loops of its own, for coroutines and for the replay of what a test has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser

from tests.web.browser import browser

_threads: dict[Browser, ThreadPoolExecutor] = {}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; a test that takes it runs in the browser's thread."""
    with ThreadPoolExecutor(1) as thread, ExitStack() as open_ones:
        started = thread.submit(open_ones.enter_context, browser()).result()
        _threads[started] = thread
        try:
            yield started
        finally:
            del _threads[started]
            thread.submit(open_ones.close).result()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    used = pyfuncitem.funcargs.get("chromium")
    if not isinstance(used, Browser):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        _threads[used].submit(pyfuncitem.obj, **arguments).result()
    finally:
        _threads[used].submit(_leave, used).result()
    return True


def _leave(used: Browser) -> None:
    """Close what a test has opened: its pages would look for their site for ever."""
    for context in used.contexts:
        context.close()
