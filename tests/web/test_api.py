"""What the API says and does, on a hub with a worker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import Client, EntityId, History, Worker
from durable.jobs import Job
from durable.web import Access, Role, create_app, live, remove_tokens
from tests.jobs.parts import eventually
from tests.web.parts import (
    SECRET,
    Counter,
    Tokens,
    app,
    by_tokens,
    charge,
    client_of,
    events_of,
    order,
    parent,
    quick,
    served,
)


async def test_the_start_and_status_pattern_of_durable_functions(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        site = create_app(worker.client, access=Access.on_loopback())
        async with client_of(site) as client:
            body = {"input": 7, "tags": {"shop": "north"}}
            started = await client.post("/api/orchestrators/order/o-1", json=body)
            assert started.status_code == 202
            assert started.headers["location"] == "/api/instances/o-1/status"
            assert started.headers["retry-after"] == "1"
            links = started.json()
            assert links["id"] == "o-1"
            going = await client.get(links["statusQueryGetUri"])
            assert (going.status_code, going.headers["location"]) == (202, links["statusQueryGetUri"])
            again = await client.post("/api/orchestrators/order/o-1", json=body)
            assert (again.status_code, again.json()["error"]["code"]) == (409, "exists")
            sent = await client.post(links["sendEventPostUri"], json={"name": "approve", "data": "yes"})
            assert sent.status_code == 202
            ended = await client.get(links["statusQueryGetUri"], params={"wait": 20})
            assert (ended.status_code, ended.json()["runtimeStatus"]) == (200, "Completed")
            assert ended.json()["output"] == "yes: charged 7"
            late = await client.post(links["sendEventPostUri"], json={"name": "approve"})
            assert (late.status_code, late.json()["error"]["code"]) == (409, "finished")
            purged = await client.delete(links["purgeHistoryDeleteUri"])
            assert purged.json() == {"count": 1}
            assert (await client.get(links["statusQueryGetUri"])).status_code == 404
            assert (await client.post("/api/orchestrators/order", json={"inptu": 7})).status_code == 400
            notes = (await client.get("/api/audit")).json()["entries"]
            told = [(note["action"], note["target"], note["outcome"].partition(":")[0]) for note in reversed(notes)]
            assert told == [
                ("start", "order", "instance o-1"),
                ("start", "order", "refused"),
                ("raise", "o-1", "done"),
                ("raise", "o-1", "refused"),
                ("purge", "o-1", "1 removed"),
            ]
            assert {(note["who"], note["role"]) for note in notes} == {("anonymous", "ADMIN")}
            assert abs(datetime.now(UTC) - datetime.fromisoformat(notes[0]["at"])) < timedelta(minutes=1)


IDS = (
    "plain-1",
    "a/b",
    "..",
    ".",
    "~tilde",
    "50%",
    "%2f",
    "semi;colon",
    "new\nline",
    "uni\u00e9\U0001f600",
    "?q#f",
    "a b",
    "CASE",
    "case",
)


async def test_every_id_is_addressed_and_listed_page_by_page(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        site = create_app(worker.client, access=Access.on_loopback())
        for instance_id in IDS:
            await worker.client.start(quick, instance_id, instance_id=instance_id, tags={"n": str(len(instance_id))})
        await worker.client.wait(prefix="")
        async with client_of(site) as client:
            seen: list[str] = []
            page: str | None = None
            while True:
                params: dict[str, Any] = {"limit": 4, "order": "oldest", **({"page": page} if page else {})}
                got = (await client.get("/api/instances", params=params)).json()
                for shown in got["instances"]:
                    one = await client.get(f"/api/instances/{shown['segment']}")
                    assert one.json()["input"] == shown["instance_id"]
                    history = await client.get(f"/api/instances/{shown['segment']}/history")
                    assert history.json()["events"][-1]["type"] == "OrchestrationCompleted"
                    seen.append(shown["instance_id"])
                page = got["next_page"]
                if page is None:
                    break
            assert sorted(seen) == sorted(IDS)
            found = await client.get("/api/instances", params={"tag": "n=2", "status": ["COMPLETED", "FAILED"]})
            assert {one["instance_id"] for one in found.json()["instances"]} == {".."}
            found = await client.get("/api/instances", params={"prefix": "%"})
            assert {one["instance_id"] for one in found.json()["instances"]} == {"%2f"}
            assert (await client.get("/api/count", params={"name": "quick"})).json() == {"count": len(IDS)}
            for wrong in (
                {"status": "NEW"},
                {"limit": 0},
                {"page": "x"},
                {"page": "eA=="},
                {"tag": "n"},
                {"created_after": "now"},
            ):
                assert (await client.get("/api/instances", params=wrong)).status_code == 400, wrong


async def test_steering_rewinding_restarting_and_bulk_with_a_dry_run(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        durable = worker.client
        site = create_app(durable, access=Access.on_loopback())
        async with client_of(site) as client:
            failing = await durable.start(order, 5000, instance_id="f", events=[("approve", "ok")])
            await failing.wait(20)
            shown = (await client.get("/api/instances/f")).json()
            details = shown["failure_details"]
            assert (shown["status"], details["error_type"]) == ("FAILED", "durable.errors.ActivityFailedError")
            assert (details["inner"]["error_type"], "is too much" in details["inner"]["message"]) == (
                "ValueError",
                True,
            )
            drawn = (await client.get("/api/instances/f/timeline")).json()
            (row,) = [row for row in drawn["rows"] if row["kind"] == "activity"]
            assert [attempt["status"] for attempt in row["attempts"]] == ["failed", "failed"]
            assert (await client.post("/api/instances/f/rewind", json={"reason": "again"})).status_code == 202
            assert (await failing.wait(20)).generation == 1
            assert (await client.get("/api/instances/f/history", params={"generation": 0})).json()["generation"] == 0
            assert (await client.post("/api/instances/f/restart", json={"new_id": "f2"})).json()["id"] == "f2"
            for action, status in (("suspend", "SUSPENDED"), ("resume", "RUNNING"), ("cancel", "CANCELLED")):
                assert (await client.post(f"/api/instances/f2/{action}", json={})).status_code == 202
                await eventually(durable.get("f2").state, lambda state, wanted=status: state.status == wanted)
            for number in range(5):
                await durable.start(order, 1, instance_id=f"many-{number}", tags={"batch": "7"})
            body = {"filters": {"tag": ["batch=7"]}, "dry_run": True}
            dry = await client.post("/api/bulk/terminate", json=body)
            assert dry.json() == {"count": 5, "dry_run": True}
            done = await client.post("/api/bulk/terminate", json={**body, "dry_run": False, "reason": "over"})
            assert done.json() == {"count": 5, "dry_run": False}
            assert await durable.wait(tags={"batch": "7"}, timeout=20) == 5
            assert (await client.post("/api/bulk/terminate", json={})).status_code == 400
            assert (await client.post("/api/bulk/purge", json={"dry_run": True})).status_code == 400
            purge = await client.post("/api/bulk/purge", json={"filters": {"prefix": "many-"}, "dry_run": True})
            assert purge.json()["count"] == 5
            purge = await client.post("/api/bulk/purge", json={"filters": {"prefix": "many-"}})
            assert (purge.json()["count"], await durable.count(prefix="many-")) == (5, 0)
            (note, *_) = (await client.get("/api/audit", params={"limit": 1})).json()["entries"]
            assert (note["action"], note["details"]["prefix"], note["outcome"]) == (
                "bulk purge",
                "many-",
                "5 instances",
            )


async def test_queries_and_updates_are_answered_or_refused_and_updates_noted(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        site = create_app(worker.client, access=Access.on_loopback())
        await worker.client.start(order, 7, instance_id="q")
        async with client_of(site) as client:
            got = await client.post("/api/instances/q/query", json={"name": "double"})
            assert got.json() == {"answer": 14}
            assert (await client.post("/api/instances/q/query", json={"name": "triple"})).status_code == 404
            got = await client.post("/api/instances/q/update", json={"name": "add", "arg": 3})
            assert got.json() == {"result": 10}
            got = await client.post("/api/instances/q/update", json={"name": "add", "arg": -3})
            assert (got.status_code, got.json()["error"]["message"]) == (409, "-3 is negative")
            notes = (await client.get("/api/audit")).json()["entries"]
            assert [note["action"] for note in notes] == ["update", "update"]


async def test_trees_of_children_and_jobs_schedules_entities_workers_and_the_overview(store_url: str) -> None:
    async with Worker(app, store_url, name="worker-1") as worker:
        durable = worker.client
        site = create_app(durable, access=Access.on_loopback())
        async with client_of(site) as client:
            await durable.run(parent, 3, instance_id="p", timeout=20)
            tree = (await client.get("/api/instances/p/tree")).json()
            assert [(node["name"], node["depth"]) for node in tree["nodes"]] == [("parent", 0), *[("quick", 1)] * 3]
            below = (await client.get(f"/api/instances/{tree['nodes'][1]['segment']}/tree")).json()
            assert [one["instance_id"] for one in below["ancestors"]] == ["p"]
            jobs = await durable.schedule(Job(charge, 5).then(Job(charge, 5000)), instance_id="jobs")
            await jobs.result(20)
            shown = (await client.get("/api/jobs/jobs")).json()["jobs"]
            assert [(job["id"], job["parent_id"], job["status"]) for job in shown] == [
                ("0", None, "DONE"),
                ("1", "0", "FAILED"),
            ]
            await durable.schedules.create("nightly/1", quick, 1, cron="0 3 * * *")
            (schedule,) = (await client.get("/api/schedules")).json()["schedules"]
            assert (schedule["id"], schedule["next_times"][0][11:16]) == ("nightly/1", "03:00")
            url = f"/api/schedules/{schedule['segment']}"
            assert (await client.post(f"{url}/pause", json={"note": "holidays"})).status_code == 202
            assert (await client.get(url)).json()["is_paused"]
            triggered = (await client.post(f"{url}/trigger", json={})).json()["instance_id"]
            assert (await durable.get(triggered).wait(20)).output == 1
            assert (await client.delete(url)).status_code == 200
            assert (await client.get(url)).status_code == 404
            sent = await client.post("/api/entities/Counter/c-1/signal", json={"operation": "add", "input": 4})
            assert sent.status_code == 202
            await eventually(lambda: durable.get_entity(EntityId(Counter, "c-1")), lambda found: found is not None)
            (entity,) = (await client.get("/api/entities", params={"name": "Counter"})).json()["entities"]
            assert (entity["key"], entity["state"]) == ("c-1", {"value": 4})
            assert (await client.get("/api/entities/Counter/c-1")).json()["state"] == {"value": 4}
            history = await client.get(f"/api/instances/{entity['segment']}/history", params={"kind": "e"})
            assert history.status_code == 200
            (seen,) = (await client.get("/api/workers")).json()["workers"]
            assert (seen["name"], seen["is_live"], seen["orchestrations"]) == ("worker-1", True, True)
            assert {"kind": "activity", "name": "charge", "versions": ["0"]} in seen["serves"]
            overview = (await client.get("/api/overview")).json()
            assert overview["counts"]["COMPLETED"] == 6
            assert overview["started_last_hour"]["COMPLETED"] == 6
            assert overview["workers_live"] == 1


async def test_live_updates_tell_of_each_change_and_of_the_end(tmp_path: Path) -> None:
    async with Worker(app, f"sqlite:///{tmp_path / 'live.db'}") as worker:
        site = create_app(worker.client, access=Access.on_loopback())
        handle = await worker.client.start(order, 3, instance_id="live")
        async with served(site) as address, httpx.AsyncClient(base_url=address, timeout=20) as client:
            async with client.stream("GET", "/api/instances/live/live") as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                seen = []
                async for kind, shown in events_of(response):
                    seen.append((kind, shown["status"] if kind == "instance" else None))
                    if shown.get("status") == "RUNNING" and len(seen) < 3:
                        await handle.raise_event("approve", "go")
                    if shown.get("status") == "COMPLETED":
                        await handle.purge()
                    if kind == "gone":
                        break
            assert ("instance", "RUNNING") in seen
            assert seen[-2:] == [("instance", "COMPLETED"), ("gone", None)]
            async with client.stream("GET", "/api/live") as response:
                kind, shown = await anext(events_of(response))
                assert (kind, shown["counts"]["RUNNING"]) == ("overview", 0)


async def test_a_stream_that_always_has_something_to_say_ends_with_its_token_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STAY_SECONDS", 0.0)
    tokens, told = Tokens.at(tmp_path / "tokens.json"), 0
    async with Client(f"memory://{tmp_path.name}") as starter:
        site = create_app(starter, access=Access.by_tokens(tokens.path), allowed_hosts=["127.0.0.1"])
        async with served(site) as address, httpx.AsyncClient(base_url=address, timeout=20) as client:
            async with client.stream("GET", "/api/live", headers=tokens.of(Role.VIEWER)) as response:
                async for _ in events_of(response):
                    told += 1
                    if told == 2:
                        remove_tokens(tokens.path, "Viewer")
                    assert told < 5, "it tells who is nobody any longer"
                    await starter.start("order", told)
    assert told >= 2


async def test_values_are_hidden_from_who_may_not_see_them_wherever_they_stand(store_url: str, tmp_path: Path) -> None:
    tokens = Tokens.at(tmp_path / "tokens.json")
    async with Worker(app, store_url) as worker:
        durable = worker.client
        site = create_app(durable, access=by_tokens(tokens), payload_role=Role.OPERATOR)
        await durable.run(quick, {"secret": SECRET}, instance_id="q", timeout=20)
        waiting = await durable.start(order, 5000, instance_id="w")
        await eventually(waiting.state, lambda state: state.custom_status)
        failed = await durable.start(order, 5000, instance_id="f", events=[("approve", SECRET)])
        await failed.wait(20)
        await durable.schedule(Job(charge, 5001, description="a job").then(Job(charge, 1)), instance_id="j")
        await durable.get_job("j").wait(20)
        await waiting.suspend(SECRET)
        await durable.schedules.create("s", quick, {"secret": SECRET}, cron="0 3 * * *")
        await durable.signal_entity(EntityId(Counter, "e"), "add", 1)
        paths = [
            "/api/instances",
            "/api/overview",
            "/api/schedules",
            "/api/schedules/s",
            "/api/entities",
            "/api/jobs/j",
        ]
        paths += [
            f"/api/instances/{one}{rest}"
            for one in "qwfj"
            for rest in ("", "/history", "/timeline", "/tree", "/dropped", "/status")
        ]
        async with client_of(site) as client:
            for path in paths:
                hidden = await client.get(
                    path, headers=tokens.of(Role.VIEWER), params={"full": "true"} if path.endswith("history") else {}
                )
                assert hidden.status_code in (200, 202), path
                assert "password" not in hidden.text, path
            shown = "".join([(await client.get(path, headers=tokens.of(Role.OPERATOR))).text for path in paths])
            assert shown.count(SECRET) > 10
            assert (await client.get("/api/instances/q/export", headers=tokens.of(Role.VIEWER))).status_code == 403
            exported = await client.get("/api/instances/q/export", headers=tokens.of(Role.OPERATOR))
            assert History.load(exported.content) == await durable.get("q").history()
            assert not (await client.get("/api/session", headers=tokens.of(Role.VIEWER))).json()["sees_payloads"]


async def test_long_histories_come_in_parts_and_long_values_cut(tmp_path: Path) -> None:
    async with Worker(app, f"memory://{tmp_path.name}") as worker:
        site = create_app(worker.client, access=Access.on_loopback())
        long = "x" * 100_000
        await worker.client.run(quick, {"text": long, "big": 2**60}, instance_id="long", timeout=20)
        async with client_of(site) as client:
            url = "/api/instances/long/history"
            history = (await client.get(url, params={"limit": 1})).json()
            assert (len(history["events"]), history["length"]) == (1, 2)
            assert history["events"][0]["input"]["$cut"] is True
            assert len(history["events"][0]["input"]["text"]) < 1000
            last = (await client.get(url, params={"first": 1, "limit": 1, "full": "true"})).json()
            assert last["events"][0]["result"] == {"text": long, "big": str(2**60)}


async def test_the_description_names_every_operation_and_what_it_takes(tmp_path: Path) -> None:
    site = create_app(f"memory://{tmp_path.name}", access=Access.on_loopback())
    async with client_of(site) as client:
        described = (await client.get("/api/openapi.json")).json()
    told = {(method.upper(), path) for path, found in described["paths"].items() for method in found}
    assert told == {(operation.method, operation.path) for operation in site.operations}
    listing = described["paths"]["/api/instances"]["get"]["parameters"]
    assert {"status", "prefix", "tag", "page", "order"} <= {parameter["name"] for parameter in listing}
    start = described["components"]["schemas"]["Start"]["properties"]
    assert {"input", "instance_id", "reuse_policy", "events"} <= set(start)
    identifiers = [found["operationId"] for methods in described["paths"].values() for found in methods.values()]
    assert len(set(identifiers)) == len(identifiers)
    await site.aclose()


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"input": 1}' + b" " * (9 * 1024 * 1024)])
async def test_a_body_that_is_none_is_refused(body: bytes, tmp_path: Path) -> None:
    site = create_app(f"memory://{tmp_path.name}", access=Access.on_loopback())
    async with client_of(site) as client:
        got = await client.post("/api/orchestrators/quick", content=body, headers={"Content-Type": "application/json"})
        assert got.status_code in (400, 413)
        async with asyncio.timeout(5):
            assert (await client.get("/api/count")).json() == {"count": 0}
    await site.aclose()
