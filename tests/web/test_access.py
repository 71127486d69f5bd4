"""Who gets in, to what, and by no other way.

Goal: no request is answered that should not be. Method: the routes are enumerated from the site's own table and called with no
token, a wrong one and each role; every trick with paths is sent over a real socket, as it is written.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from durable import Client, InvalidInputError
from durable.web import Access, Principal, Role, WebApp, add_token, create_app, remove_tokens, serve, sessions
from durable.web.calls import Operation
from tests.web.parts import Tokens, bearer, by_tokens, client_of, raw, served

CHANGES_NOTHING = ("/api/logout", "/api/instances/{id}/query")
CALLERS = ("nobody", "wrong", *Role)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens.at(tmp_path / "tokens.json")


@pytest.fixture
def site(tokens: Tokens, tmp_path: Path) -> WebApp:
    return create_app(f"memory://{tmp_path.name}", access=by_tokens(tokens), allowed_hosts=["localhost", "127.0.0.1"])


def path_to(operation: Operation) -> str:
    return re.sub(r"\{\w+\}", "nothing", operation.path)


def expected(operation: Operation, caller: Any) -> int | None:
    """The status with which the gate answers; None: the operation itself answers."""
    if operation.role is None:
        return None
    if caller in ("nobody", "wrong"):
        return 401
    return 403 if caller < operation.role else None


async def test_every_route_answers_each_caller_as_its_role_says(site: WebApp, tokens: Tokens) -> None:
    assert len(site.operations) > 40
    async with served(site) as address, httpx.AsyncClient(base_url=address) as client:
        for operation in site.operations:
            for caller in CALLERS:
                headers = (
                    {"wrong": bearer("durable_wrong"), "nobody": {}}.get(caller) if isinstance(caller, str) else None
                )
                headers = {**(tokens.of(caller) if isinstance(caller, Role) else headers or {}), **JSON}
                content = b"{}" if operation.method == "POST" else None
                async with client.stream(operation.method, path_to(operation), headers=headers, content=content) as got:
                    wanted = expected(operation, caller)
                    where = (operation.method, operation.path, caller, got.status_code)
                    if wanted is not None:
                        assert got.status_code == wanted, where
                        assert set(json.loads(await got.aread())) == {"error"}, where
                    elif operation.path == "/api/login":
                        assert got.status_code == 400, where  # there is no token in the body
                    else:
                        assert got.status_code in (200, 202, 400, 404, 409), where
                    assert "default-src 'none'" in got.headers["content-security-policy"], where
                    assert not [name for name in got.headers if name.startswith("access-control-")], where


TRICKS = (
    *(
        "/api/instances/health",
        "/api/health/instances",
        "/api/health/",
        "/api/health/../instances",
        "/api/health/..;/instances",
    ),
    *(
        "/api/health/%2e%2e/instances",
        "/api/health%2f..%2finstances",
        "/api/health;/../instances",
        "/api/instances;health",
    ),
    *(
        "/api/instances;/health",
        "/api/instances;a=/api/health",
        "//api/instances",
        "/api//instances",
        "/api/./instances",
    ),
    *(
        "/api/instances%2f",
        "/api/instances/",
        "/API/instances",
        "/api/Instances",
        "/api/instances.json",
        "/api/instances.css",
    ),
    *(
        "/static/../api/instances",
        "/static/%2e%2e/api/instances",
        "/static/..%2fapi%2finstances",
        "/static/app.js/../../api/overview",
    ),
    *("/api/instances%00/health", "/api/instances?/health", "/api/instances#/health", "/api/overview?x=/static/app.js"),
    *(
        "/api/health\\..\\instances",
        "/api/health/..\\instances",
        "/api/%69nstances",
        "/%61pi/instances",
        "/api/instances%20",
    ),
    *(
        "/api/instances/..",
        "/api/instances/.",
        "/api/instances/%2e%2e",
        "/api/instances/~Li4",
        "/api/login/../instances",
    ),
    *(
        "/api/health/..%252finstances",
        "/api/audit/health",
        "/api/audit;.css",
        "/api/audit?token=TOKEN",
        "/api/audit?access_token=TOKEN",
    ),
    *(
        "http://localhost/api/instances",
        "http://localhost/api/health/../instances",
        "/./api/instances",
        "/../api/instances",
    ),
    *(
        "/api/live/health",
        "/api/live?health",
        "/.well-known/../api/instances",
        "/static/",
        "/static/../tokens.json",
        "/health",
    ),
)


async def test_no_trick_with_a_path_opens_anything(site: WebApp, tokens: Tokens) -> None:
    async with served(site) as address:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            for path in TRICKS:
                target = path.replace("TOKEN", tokens.admin)
                head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                head += "Content-Length: 0\r\n"
                head += (
                    "X-Original-URL: /api/health\r\nX-Rewrite-URL: /api/health\r\nX-Forwarded-Prefix: /api/health\r\n"
                )
                status, body = await raw(address, head)
                assert status in (400, 401, 404, 405), (method, path, status, body)
                assert not re.search("instances|entries", body), (method, path, body)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:80", "", "127.0.0.1.evil", "a@localhost"]
)
async def test_a_host_that_is_none_of_ours_gets_nothing(site: WebApp, tokens: Tokens, host: str) -> None:
    async with client_of(site) as client:
        got = await client.get("/api/overview", headers={**tokens.of(Role.ADMIN), "Host": host})
        assert (got.status_code, got.json()["error"]["code"]) == (400, "bad_host")
        assert (await client.get("/", headers={"Host": host})).status_code == 400


async def test_a_token_is_taken_from_the_header_and_never_from_the_address(site: WebApp, tokens: Tokens) -> None:
    async with client_of(site) as client:
        for name in ("token", "access_token", "bearer", "authorization", "key"):
            assert (await client.get("/api/instances", params={name: tokens.admin})).status_code == 401
            got = await client.get("/api/instances", params={name: tokens.admin}, headers=tokens.of(Role.ADMIN))
            assert got.status_code == 400  # nothing that is not named is passed over
        assert (await client.get("/api/instances", headers=bearer(tokens.admin))).status_code == 200
        for header in (tokens.admin, f"Basic {tokens.admin}", f"Bearer {tokens.admin}x", "Bearer", "Bearer  "):
            assert (await client.get("/api/instances", headers={"Authorization": header})).status_code == 401


async def test_tokens_are_kept_as_digests_and_end_when_they_are_removed(tmp_path: Path) -> None:
    tokens = Tokens.at(tmp_path / "tokens.json")
    stored = tokens.path.read_text()
    assert all(
        token not in stored and token.removeprefix("durable_") not in stored for token in (tokens.viewer, tokens.admin)
    )
    assert tokens.path.stat().st_mode & 0o077 == 0
    site = create_app(f"memory://{tmp_path.name}", access=by_tokens(tokens))
    async with client_of(site) as client:
        login = await client.post("/api/login", json={"token": tokens.viewer})
        assert login.status_code == 200
        assert (await client.get("/api/overview")).status_code == 200
        assert remove_tokens(tokens.path, "Viewer") == 1
        assert (await client.get("/api/overview")).status_code == 401  # of the session, too
        assert (await client.get("/api/overview", headers=tokens.of(Role.VIEWER))).status_code == 401
        again = add_token(tokens.path, "Viewer", Role.VIEWER)
        assert (await client.get("/api/overview", headers=bearer(again))).status_code == 200
        tokens.path.write_text("{}")
        got = await client.get("/api/overview", headers=bearer(again))
        assert got.json()["error"]["code"] == "access_unavailable"
    await site.aclose()


async def test_a_session_is_known_to_every_process_of_a_site_and_after_a_restart(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "REMEMBERED_S", 0.0)  # as if seconds had passed
    file, access = tmp_path / "store.db", by_tokens(tokens)
    Client.sync(f"sqlite:///{file}").close()

    @contextlib.asynccontextmanager
    async def process(access: Access, cookies: Any = None) -> AsyncIterator[httpx.AsyncClient]:
        async with contextlib.aclosing(create_app(f"sqlite:///{file}", access=access)) as site:
            async with client_of(site, cookies=cookies) as client:
                yield client

    async with process(access) as client:
        assert (await client.post("/api/login", json={"token": tokens.operator})).status_code == 200
        csrf = (await client.get("/api/session")).json()["csrf_token"]
        cookies = client.cookies
    assert all(value not in file.read_bytes().decode("latin-1") for value in (tokens.operator, *cookies.values()))

    access = Access.by_tokens(tokens.path)  # another process, with nothing in memory
    async with process(access, cookies) as client, process(access, cookies) as other:
        assert (await other.get("/api/overview")).status_code == 200
        got = await client.post("/api/logout", json={}, headers={"X-CSRF-Token": csrf})
        assert got.status_code == 200
        assert (await other.get("/api/overview")).status_code == 401


async def test_a_session_ends_though_nobody_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Client(f"memory://{tmp_path.name}") as client:
        known = sessions.Sessions(client.connection)
        assert await known.token_of(await known.open("digest")) == "digest"
        monkeypatch.setattr(sessions, "SESSION_SECONDS", 0)
        assert await known.token_of(await known.open("digest")) is None


async def test_a_session_that_is_closed_while_it_is_looked_up_is_over_at_once(tmp_path: Path) -> None:
    async with Client(f"memory://{tmp_path.name}") as client:
        connection = client.connection
        known, read = sessions.Sessions(connection), connection.provider.read_memos
        session = await known.open("digest")

        async def read_late(*arguments: Any) -> Any:
            found = await read(*arguments)
            await known.close(session)
            return found

        connection.provider.read_memos = read_late  # type: ignore[method-assign]
        assert await known.token_of(session) == "digest", "it was asked before"
        connection.provider.read_memos = read  # type: ignore[method-assign]
        assert await known.token_of(session) is None


async def test_a_session_changes_something_only_with_its_own_token_and_from_its_own_page(
    site: WebApp, tokens: Tokens
) -> None:
    body, url = {"operation": "add"}, "/api/entities/Counter/one/signal"
    async with client_of(site) as client:
        login = await client.post("/api/login", json={"token": tokens.operator})
        cookie = login.headers["set-cookie"].lower()
        assert {"httponly", "samesite=strict"} <= set(cookie.split("; "))
        assert tokens.operator not in cookie
        csrf = {"X-CSRF-Token": (await client.get("/api/session")).json()["csrf_token"]}
        assert (await client.post(url, json=body)).json()["error"]["code"] == "csrf"
        assert (await client.post(url, json=body, headers={"X-CSRF-Token": "0" * 64})).json()["error"]["code"] == "csrf"
        for foreign in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            got = await client.post(url, json=body, headers={**csrf, **foreign})
            assert (got.status_code, got.json()["error"]["code"]) == (403, "other_site"), foreign
        form = await client.post(url, data=body, headers=csrf)
        assert form.status_code == 415
        ours = {**csrf, "Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post(url, json=body, headers=ours)).status_code == 202
        assert (await client.post("/api/logout", json={}, headers=ours)).status_code == 200
        assert (await client.post(url, json=body, headers=ours)).status_code == 401
        assert (await client.post("/api/login", json={"token": "x"})).status_code == 401
    await site.aclose()


async def test_on_loopback_everybody_gets_in_but_from_elsewhere_through_a_proxy_or_another_site(tmp_path: Path) -> None:
    site = create_app(f"memory://{tmp_path.name}", access=Access.on_loopback())
    async with client_of(site) as client:
        assert (await client.get("/api/session")).json()["role"] == "ADMIN"
        assert (await client.get("/api/overview", headers={"X-Forwarded-For": "1.2.3.4"})).status_code == 401
        assert (await client.get("/api/overview", headers=bearer("any"))).status_code == 401
        url, body = "/api/orchestrators/quick", {"input": 1}
        assert (await client.post(url, json=body)).status_code == 202
        assert (await client.post(url, json=body, headers={"Origin": "http://evil.example"})).status_code == 403
        assert (await client.post(url, json=body, headers={"Origin": "http://localhost:9"})).status_code == 403
        plain = {"Content-Type": "text/plain"}
        assert (await client.post(url, content=b"{}", headers=plain)).status_code == 415
    async with client_of(site, client=("10.0.0.7", 1)) as client:
        assert (await client.get("/api/overview")).status_code == 401
    await site.aclose()


async def test_the_host_application_says_who_somebody_is(tmp_path: Path) -> None:
    async def authenticate(request: Request) -> Principal | None:
        user = request.cookies.get("user")
        return Principal(user, Role.OPERATOR) if user == "ada" else None

    async with Client(f"memory://{tmp_path.name}") as durable:
        site = create_app(durable, access=Access.by_host(authenticate), allowed_hosts=["*"])
        host = Starlette(routes=[Mount("/work/durable", app=site)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://shop.example") as client:
            assert (await client.get("/work/durable/api/overview")).status_code == 401
            client.cookies.set("user", "ada")
            session = (await client.get("/work/durable/api/session")).json()
            assert (session["name"], session["way"]) == ("ada", "host")
            body = {"input": 5}
            assert (await client.post("/work/durable/api/orchestrators/quick", json=body)).status_code == 403
            headers = {"X-CSRF-Token": session["csrf_token"]}
            got = await client.post("/work/durable/api/orchestrators/quick/a%20b", json=body, headers=headers)
            assert got.headers["location"] == "/work/durable/api/instances/~YSBi/status"
            assert (await client.get(got.headers["location"])).json()["instance_id"] == "a b"
            assert (await client.get("/work/durable/")).headers["content-type"].startswith("text/html")
            assert (await client.get("/work/durable/api/audit")).status_code == 403


async def test_read_only_means_that_nothing_changes_for_anybody(tokens: Tokens, tmp_path: Path) -> None:
    site = create_app(f"memory://{tmp_path.name}", access=by_tokens(tokens), read_only=True)
    async with client_of(site, headers=tokens.of(Role.ADMIN)) as client:
        for operation in site.operations:
            got = None
            if operation.method != "GET" and operation.role is not None and operation.path not in CHANGES_NOTHING:
                assert operation.changes, operation.path
                got = await client.request(operation.method, path_to(operation), json={})
                assert (got.status_code, got.json()["error"]["code"]) == (403, "read_only"), operation.path
        assert (await client.get("/api/overview")).status_code == 200
    await site.aclose()


async def test_what_serves_others_needs_tokens_or_refuses_to_start(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'none.db'}"
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(InvalidInputError, match="tokens"):
            serve(store, host=host, port=0)
    tokens = Tokens.at(tmp_path / "tokens.json")
    with pytest.raises(InvalidInputError, match="under which names"):
        serve(store, host="0.0.0.0", port=0, tokens=tokens.path)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        serve(store, port=0, tokens=tmp_path / "missing")
    with pytest.raises(InvalidInputError, match="any host"):
        create_app(store, access=Access.on_loopback(), allowed_hosts=["*"])
    assert not (tmp_path / "none.db").exists()


@pytest.mark.own_processes
def test_it_serves_this_machine_until_it_is_told_to_end(tmp_path: Path) -> None:
    code = f"from durable.web import serve; serve('sqlite:///{tmp_path / 'served.db'}', port=0)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = re.findall(r"http://127\.0\.0\.1:\d+", process.stderr.readline())[0]
        assert httpx.get(f"{address}/api/session").json()["name"] == "anonymous"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
