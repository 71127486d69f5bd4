"""The dashboard in a real, headless Chromium.

Goal: what people do with it works, by mouse, by keyboard and on a phone, and nothing that users control is ever run. Method: a
hub with a worker in this process, a browser beside it, and a page that notes each error, dialog, refusal of its policy and
foreign request.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from durable import App, Client, EntityId, OrchestrationContext, when_all
from durable.jobs import Job
from durable.web import Access, Role, WebApp, create_app
from tests.house.source_tree import ROOT
from tests.web import showcase
from tests.web.browser import WAIT_MS, Hub, Watched
from tests.web.parts import Tokens

pytestmark = [pytest.mark.browser, pytest.mark.own_processes]

expect.set_options(timeout=WAIT_MS)

PAGES = ("/", "/instances", "/jobs", "/schedules", "/entities", "/workers", "/audit")


# ---- what people do


def bank() -> tuple[App, dict[str, bool]]:
    """An orchestration that waits for an event, and then fails as long as the bank is closed."""
    app, world = App(), {"is open": False}

    @app.activity
    def transfer(amount: int) -> str:
        if not world["is open"]:
            raise RuntimeError("the bank is closed")
        return f"{amount} transferred"

    @app.orchestrator
    async def payment(ctx: OrchestrationContext, amount: int) -> str:
        ctx.set_custom_status("waiting for a signature")
        ctx.on_query("amount", lambda: {"amount": amount})
        signature = await ctx.wait_for_external_event("sign", str)
        return f"{await ctx.call_activity(transfer, amount)}, signed by {signature}"

    return app, world


def test_start_watch_live_raise_fail_rewind_and_terminate_many(chromium: Browser, tmp_path: Path) -> None:
    app, world = bank()
    with Hub(app, f"sqlite:///{tmp_path / 'bank.db'}") as hub:
        watched = Watched(chromium.new_context(), hub.address)
        page = watched.page
        watched.go(hub.address, "/instances", "Instances")
        page.get_by_role("button", name="Start…").click()
        page.get_by_label("Orchestrator").last.fill("payment")
        page.get_by_label("Input, as JSON").fill("250")
        page.get_by_label("Instance id (empty: any)").fill("pay 1/ä")
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator("main h1")).to_have_text("pay 1/ä")
        expect(page.locator(".title .status")).to_contain_text("RUNNING")  # live: nobody reloads
        expect(page.locator(".waiting")).to_contain_text("Waits for an external event")
        page.get_by_role("button", name="Query").click()
        page.get_by_label("Name of the query").fill("amount")
        page.locator("dialog button[type=submit]").click()
        expect(page.locator("dialog .value")).to_contain_text("250")
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Raise event").click()
        page.get_by_label("Name of the event").fill("sign")
        page.get_by_label("Data, as JSON").fill('{"not": json')
        page.locator("dialog button[type=submit]").click()
        expect(page.locator("dialog .error")).to_contain_text("this is no JSON")
        page.get_by_label("Data, as JSON").fill('"Ada"')
        page.locator("dialog button[type=submit]").click()
        expect(page.locator(".title .status")).to_contain_text("FAILED")
        expect(page.locator(".failure").first).to_contain_text("the bank is closed")
        expect(page.locator(".bar-row[data-status=FAILED]")).to_have_count(1)
        world["is open"] = True
        page.get_by_role("button", name="Rewind").click()
        page.get_by_label("Reason").fill("the bank has opened")
        page.locator("dialog button[type=submit]").click()
        expect(page.locator(".title .status")).to_contain_text("COMPLETED")
        page.get_by_role("tab", name="Values").click()
        expect(page.locator("#panel")).to_contain_text("250 transferred, signed by Ada")
        page.get_by_role("tab", name="History").click()
        page.locator(".event", has_text="OrchestrationRewound").click()
        expect(page.locator(".event-details")).to_contain_text("the bank has opened")
        for number in range(12):
            hub.run(hub.client.start("payment", number, instance_id=f"many-{number}", tags={"batch": "b"}))
        watched.go(hub.address, "/instances?tag=batch%3Db", "Instances")
        expect(page.locator("tbody tr")).to_have_count(12)
        page.get_by_text("Do the same with all that match").click()
        page.get_by_role("button", name="terminate").click()
        expect(page.locator("dialog .about")).to_contain_text("12 instances")
        page.get_by_label("To confirm, write the number").fill("11")
        page.locator("dialog button[type=submit]").click()
        expect(page.locator("dialog .error")).to_contain_text("not the number")
        assert hub.run(hub.client.count(status="TERMINATED")) == 0
        page.get_by_label("To confirm, write the number").fill("12")
        page.locator("dialog button[type=submit]").click()
        expect(page.locator("#notices")).to_contain_text("12 instances")
        assert hub.run(hub.client.wait(tags={"batch": "b"}, timeout=20)) == 12
        watched.go(hub.address, "/audit", "Audit")
        expect(page.locator("tbody tr")).to_have_count(4)
        expect(page.locator("tbody tr").first).to_contain_text("bulk terminate")
        assert watched.faults == []


def test_a_token_opens_a_session_that_may_do_what_its_role_says(chromium: Browser, tmp_path: Path) -> None:
    tokens = Tokens.at(tmp_path / "tokens.json")

    def make(client: Client) -> WebApp:
        hosts = ["127.0.0.1"]
        access = Access.by_tokens(tokens.path)
        return create_app(client, access=access, allowed_hosts=hosts, payload_role=Role.OPERATOR)

    app, _ = bank()
    with Hub(app, f"memory://{tmp_path.name}", make) as hub:
        hub.run(hub.client.start("payment", 4711, instance_id="p"))
        context = chromium.new_context()
        watched = Watched(context, hub.address)
        page = watched.page
        page.goto(f"{hub.address}/#/instances/p?tab=Values")
        page.get_by_label("Token").fill("durable_wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".error")).to_contain_text("nobody has this token")
        page.get_by_label("Token").fill(tokens.viewer)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#panel")).to_contain_text("hidden from your role")
        expect(page.locator(".actions button")).to_have_count(0)
        assert "4711" not in page.content()
        assert page.evaluate("document.cookie") == ""
        assert tokens.viewer not in page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])"
        )
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").fill(tokens.operator)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#panel")).to_contain_text("4711")
        expect(page.locator('[data-action="purge"]')).to_have_count(0)
        page.get_by_role("button", name="Suspend").click()
        page.locator("dialog button[type=submit]").click()
        expect(page.locator(".title .status")).to_contain_text("SUSPENDED")
        assert watched.faults == []


# ---- nothing that users control is run

RUN = "window.harmed=(window.harmed||0)+1"
PARTS = (
    *(
        f"<script>{RUN}</script>",
        f"<img src=x onerror={RUN}>",
        f"<svg onload={RUN}>",
        f'"><svg/onload={RUN}>',
        f"'-{RUN}-'",
    ),
    *(f"<body onload={RUN}>", f"<iframe srcdoc='<script>parent.{RUN}</script>'>", f"<details open ontoggle={RUN}>x"),
    *(
        f"javascript:{RUN}",
        f"<a href=javascript:{RUN}>x</a>",
        f"</script><script>{RUN}</script>",
        "<style>@import 'x'</style>",
    ),
    *(f"<math><mi xlink:href=javascript:{RUN}>", f"<video><source onerror={RUN}>", f"<input autofocus onfocus={RUN}>"),
    *(
        "<base href=//evil.example/>",
        f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
        "{{constructor.constructor('x')()}}",
    ),
    *(
        f"<template><script>{RUN}</script></template>",
        f"<object data=javascript:{RUN}>",
        f"<embed src=javascript:{RUN}>",
    ),
    *(
        f"<form action=javascript:{RUN}><button>x",
        f"data:text/html,<script>{RUN}</script>",
        f"\u2028<script>{RUN}</script>",
    ),
    "<link rel=stylesheet href=//evil.example/x.css>",
)
WRAPPINGS = ("{}", "'\"`><!--{}-->", "</title></textarea></style>{}", "\u202e{}\n\t")
PAYLOADS = tuple(
    wrapping.format(part) if part.count("{") == 0 else wrapping.replace("{}", part)
    for part, wrapping in itertools.product(PARTS, WRAPPINGS)
)


def hostile() -> App:
    app = App()

    @app.activity
    def complain(text: str) -> str:
        raise ValueError(text)

    @app.orchestrator
    async def victim(ctx: OrchestrationContext, texts: list[str]) -> Any:
        ctx.set_custom_status({text: [text] for text in texts})
        await ctx.wait_for_external_event("go", str)
        await ctx.call_activity(complain, "\n".join(texts))

    @app.orchestrator
    async def echo(ctx: OrchestrationContext, text: Any) -> Any:
        return {"said": text}

    @app.entity
    class Diary:
        page: str = ""

        def write(self, text: str) -> None:
            self.page = text

    return app


async def plant(client: Client) -> None:
    """Put each payload into every field that users control; the instance `all` holds all of them in each."""
    for number, text in enumerate(PAYLOADS):
        await client.start("echo", text, instance_id=text, tags={text: text})
        await client.signal_entity(EntityId("Diary", text), "write", text)
        if number % 10 == 0:
            await client.start("victim", [text], instance_id=f"failed {text}", events=[("go", text)])
            await client.schedule(Job("complain", text, description=text), instance_id=f"{number} {text}")
            await client.schedules.create(f"{number} {text}", "echo", text, cron="0 3 * * *")
            await client.schedules.pause(f"{number} {text}", text)
    events = [*((text, text) for text in PAYLOADS), ("go", "now")]
    tags = {text: text for text in PAYLOADS}
    await client.start("victim", [*PAYLOADS], instance_id="all", tags=tags, events=events)
    await client.wait(name="victim", timeout=30)


SLOW_ANSWERS = """() => {
  const real = window.fetch;
  window.fetch = async (...what) => { await new Promise((done) => setTimeout(done, 200)); return real(...what); };
}"""


def test_going_to_a_page_waits_for_that_one_also_where_it_has_the_name_of_the_last(
    chromium: Browser, tmp_path: Path
) -> None:
    app, _ = bank()
    with Hub(app, f"memory://{tmp_path.name}") as hub:
        watched = Watched(chromium.new_context(), hub.address)
        watched.go(hub.address, "/instances", "Instances")
        watched.page.evaluate(SLOW_ANSWERS)
        watched.go(hub.address, "/instances?order=oldest", "Instances")
        assert watched.page.locator("#order").input_value() == "oldest"


def test_a_hundred_scripts_in_every_field_run_nowhere(chromium: Browser, tmp_path: Path) -> None:
    assert len(PAYLOADS) == 100
    with Hub(hostile(), f"memory://{tmp_path.name}", name=PAYLOADS[0]) as hub:
        hub.run(plant(hub.client))
        watched = Watched(chromium.new_context(), hub.address)
        page = watched.page
        for path in (*PAGES, f"/instances?prefix={PAYLOADS[0]}", "/instances?status=FAILED"):
            watched.go(hub.address, path)
            page.evaluate(OPEN_ALL)
        watched.go(hub.address, "/instances?order=oldest")
        seen: set[str] = set()
        while True:
            page.wait_for_selector("tbody tr")
            seen |= set(page.locator("tbody .id").all_text_contents())
            following = page.get_by_role("button", name="Next page")
            if following.is_disabled():
                break
            told = page.locator(".pager .none").first.text_content()
            following.click()
            page.wait_for_function("(told) => document.querySelector('.pager .none').textContent !== told", arg=told)
        assert set(PAYLOADS) <= seen, "each is shown as it is"
        for name in (*PAYLOADS[::10], "all"):
            (segment,) = page.evaluate(SEGMENTS, [name])
            page.evaluate("(hash) => { location.hash = hash; }", f"#/instances/{segment}")
            page.wait_for_function("(text) => document.querySelector('main h1')?.textContent === text", arg=name)
        expect(page.locator(".bar-row").first).to_be_visible()
        shown = page.locator(".failure .message").first.text_content() or ""
        assert all(text in shown for text in PAYLOADS), "each is shown as it is"
        for tab in ("History", "Values", "Tree", "Dropped"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_function("() => document.querySelector('#panel').textContent !== '…'")
            page.evaluate(OPEN_ALL)
            if tab == "History":
                page.locator(".event").nth(2).click()
                page.wait_for_selector(".event-details h2")
        assert page.evaluate("window.harmed") is None
        assert watched.faults == []


SEGMENTS = "(ids) => import('./static/dialogs.js').then((module) => ids.map(module.segmentOf))"
OPEN_ALL = "() => { for (const one of document.querySelectorAll('main details')) one.open = true; }"


# ---- for everybody, everywhere

NAMELESS = """() => [...document.querySelectorAll('a, button, input, select, textarea, [role=listbox], svg[role=img]')]
  .filter((one) => one.offsetParent !== null || one.ownerSVGElement)
  .filter((one) => !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim() || one.title))
  .map((one) => one.outerHTML.slice(0, 120))"""


def test_every_page_has_names_for_all_that_is_used_and_fits_a_phone(chromium: Browser, tmp_path: Path) -> None:
    with Hub(showcase.app, f"sqlite:///{tmp_path / 'shop.db'}") as hub:
        hub.run(showcase.fill(hub.client))
        hub.run(hub.client.get("order-0013-13").wait(20))
        watched = Watched(chromium.new_context(viewport={"width": 390, "height": 800}), hub.address)
        page = watched.page
        order = "/instances/order-0013-13"
        for path in (*PAGES, order, f"{order}?tab=History", f"{order}?tab=Tree", "/jobs/month-end"):
            watched.go(hub.address, path)
            page.wait_for_timeout(100)
            assert page.evaluate(NAMELESS) == [], path
            assert page.locator("h1").count() == 1, path
            wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
            assert wide <= 0, (path, wide)
        assert watched.faults == []


def test_the_keyboard_alone_is_enough(chromium: Browser, tmp_path: Path) -> None:
    app, _ = bank()
    with Hub(app, f"memory://{tmp_path.name}") as hub:
        hub.run(hub.client.start("payment", 1, instance_id="by-hand"))
        watched = Watched(chromium.new_context(), hub.address)
        page = watched.page
        watched.go(hub.address, "/", "Overview")
        page.keyboard.press("g")
        page.keyboard.press("i")
        expect(page.locator("main h1")).to_have_text("Instances")
        page.keyboard.press("/")
        page.keyboard.type("by-")
        page.keyboard.press("Enter")
        link = page.get_by_role("link", name="by-hand")
        expect(link).to_be_visible()
        link.focus()
        page.keyboard.press("Enter")
        expect(page.locator("main h1")).to_have_text("by-hand")
        page.get_by_role("tab", name="Timeline").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="History")).to_be_focused()
        page.locator(".events").focus()
        page.keyboard.press("Home")
        expect(page.locator(".event-details h2")).to_contain_text("OrchestrationStarted")
        page.get_by_role("button", name="Cancel").focus()
        page.keyboard.press("Enter")
        expect(page.locator("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        page.keyboard.press("Enter")
        page.keyboard.type("by keyboard")
        page.keyboard.press("Enter")
        expect(page.locator(".title .status")).to_contain_text("CANCELLED")
        assert watched.faults == []


def test_ten_thousand_events_scroll_and_are_all_reached(chromium: Browser, tmp_path: Path) -> None:
    app = App()

    @app.activity
    async def nothing(number: int) -> None:
        pass

    @app.orchestrator
    async def wide(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity(nothing, number) for number in range(5000)])

    with Hub(app, f"memory://{tmp_path.name}") as hub:
        hub.run(hub.client.run("wide", instance_id="wide", timeout=60))
        watched = Watched(chromium.new_context(), hub.address)
        page = watched.page
        watched.go(hub.address, "/instances/wide?tab=History", "wide")
        expect(page.locator(".history")).to_contain_text("10,002 events")
        for where in (".events", ".timeline"):
            if where == ".timeline":
                page.get_by_role("tab", name="Timeline").click()
                page.wait_for_selector(".bar-row")
            frames = page.evaluate(SCROLL, where)
            assert sorted(frames)[len(frames) // 2] < 50, frames
            assert page.locator(".event, .bar-row").count() < 120
        page.get_by_role("tab", name="History").click()
        page.get_by_role("button", name="Last", exact=True).click()
        expect(page.locator(".event").last).to_contain_text("OrchestrationCompleted")
        expect(page.locator(".event-details h2")).to_contain_text("10001")
        assert watched.faults == []


SCROLL = """async (where) => {
  const box = document.querySelector(where);
  const frames = [];
  let last = await new Promise(requestAnimationFrame);
  for (let at = 0; at < 60; at += 1) {
    box.scrollTop += 900;
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""


def test_what_one_comes_for_is_seen_at_first_glance(chromium: Browser, tmp_path: Path) -> None:
    """On a phone the list is not below its filters; and an event is found among hundreds of rows."""
    app = App()

    @app.activity
    async def nothing(number: int) -> None:
        pass

    @app.orchestrator
    async def wide(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity(nothing, number) for number in range(100)])
        await ctx.wait_for_external_event("the tide")
        await when_all([ctx.call_activity(nothing, number) for number in range(100)])

    with Hub(app, f"memory://{tmp_path.name}") as hub:
        handle = hub.run(hub.client.start("wide", instance_id="wide"))
        hub.run(handle.raise_event("the tide"))
        hub.run(handle.result(timeout=60))
        watched = Watched(chromium.new_context(viewport={"width": 390, "height": 844}), hub.address)
        page = watched.page
        watched.go(hub.address, "/instances", "Instances")
        row = page.get_by_role("link", name="wide").first
        expect(row).to_be_in_viewport()
        expect(page.get_by_label("Orchestrator")).to_be_hidden()
        page.get_by_role("button", name="Filters").click()
        page.get_by_label("Orchestrator").fill("another")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_text("No instance matches.")).to_be_visible()
        watched.go(hub.address, "/instances/wide", "wide")
        page.get_by_role("button", name="the tide").click()
        expect(page.locator(".row-details h2")).to_contain_text("the tide")
        expect(page.locator(".arrived")).to_have_count(1)
        assert watched.faults == []


# ---- the pictures in the documentation

PICTURES = {
    "overview": ("/", "light", 1280),
    "instance": ("/instances/order-0007-7", "light", 1280),
    "failure": ("/instances/order-0013-13", "dark", 1280),
    "instances": ("/instances?status=RUNNING", "dark", 1280),
    "job-tree": ("/jobs/month-end", "light", 1280),
    "phone": ("/instances/order-0003-3", "light", 390),
}


def test_the_pictures_in_the_documentation_are_of_this_dashboard(chromium: Browser, tmp_path: Path) -> None:
    """With DURABLE_WRITE_PICTURES=1 they are written anew; look at them before they are committed."""
    text = (ROOT / "docs" / "dashboard.md").read_text("utf-8")
    assert set(re.findall(r"images/dashboard-([\w-]+)\.png", text)) == set(PICTURES)
    folder = ROOT / "docs" / "images" if os.environ.get("DURABLE_WRITE_PICTURES") == "1" else tmp_path
    shop = showcase.under_the_name("shop/orders.py")
    with Hub(shop["app"], f"sqlite:///{tmp_path / 'shop.db'}") as hub:
        hub.run(shop["fill"](hub.client))
        for instance_id in ("order-0007-7", "order-0013-13"):
            hub.run(hub.client.get(instance_id).wait(20))
        for name, (path, scheme, width) in PICTURES.items():
            dark = "dark" if scheme == "dark" else "light"
            context = chromium.new_context(
                viewport={"width": width, "height": 800}, color_scheme=dark, timezone_id="Europe/Berlin"
            )
            watched = Watched(context, hub.address)
            watched.go(hub.address, path)
            watched.page.wait_for_selector(".live[data-live=true], tbody, .jobs")
            watched.page.wait_for_timeout(400 if folder != tmp_path else 50)
            picture = watched.page.screenshot(path=folder / f"dashboard-{name}.png")
            assert _colours(watched.page) == scheme
            assert len(picture) > 10_000
            assert (ROOT / "docs" / "images" / f"dashboard-{name}.png").exists()
            assert watched.faults == []
            context.close()


def _colours(page: Page) -> str:
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", back)[:3])) > 3 * 127
    return "light" if light else "dark"
