"""HTTP from orchestrators goes where the app allows it and nowhere else, and a long operation is waited for durably.

Method: a real server in the test's loop, asked by real workers; names that resolve as the test says; simulated time for what
takes days, with the activity faked.
"""

from __future__ import annotations

import datetime
import json
import logging
import socket
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from durable import (
    App,
    DurableError,
    Handle,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    RetryPolicy,
    Worker,
    when_any,
)
from durable.http import HttpFailedError, HttpPolicy, HttpRefusedError, HttpRequest, HttpResponse, sending
from durable.http.addresses import address_of, is_public
from durable.testing import Environment
from tests.http.server import Answer, Asked, serving

LOOPBACK = ["127.0.0.0/8"]


def calling_app(*allow: str, **policy: Any) -> App:
    app = App()

    @app.orchestrator
    async def call(ctx: OrchestrationContext, asked: dict[str, Any]) -> dict[str, Any]:
        retries = asked.pop("attempts", 0)
        if retries:
            asked["retry_policy"] = RetryPolicy(timedelta(milliseconds=1), retries)
        response = await ctx.call_http(**asked)
        return {"status": response.status, "url": response.url, "body": response.text(), "headers": response.headers}

    app.allow_http(HttpPolicy(allow=allow, **policy))
    return app


async def answered(app: App, **asked: Any) -> dict[str, Any]:
    async with Worker(app, "memory://") as worker:
        answer: dict[str, Any] = await worker.client.run("call", asked, timeout=20)
        return answer


async def refusal(app: App, **asked: Any) -> OrchestrationFailedError:
    async with Worker(app, "memory://") as worker:
        with pytest.raises(OrchestrationFailedError) as caught:
            await worker.client.run("call", asked, timeout=20)
        return caught.value


async def test_a_request_arrives_as_it_was_given_and_its_answer_comes_back_whatever_its_status() -> None:
    def route(asked: Asked) -> Answer:
        return (
            404,
            {"X-Kind": "odd", "Set-Cookie": "session=secret", "Content-Type": "text/plain; charset=latin-1"},
            b"\xe9",
        )

    async with serving(route) as server:
        app = calling_app(server.url, allow_private=LOOPBACK)
        found = await answered(
            app, method="post", url=f"{server.url}/a?b=c", content={"n": "é"}, headers={"X-One": "1"}
        )
    [asked] = server.asked
    assert (asked.method, asked.path, json.loads(asked.body)) == ("POST", "/a?b=c", {"n": "é"})
    assert asked.headers["x-one"] == "1"
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["idempotency-key"], "a repeated delivery can be told"
    assert (found["status"], found["body"], found["headers"]["x-kind"]) == (404, "é", "odd")
    assert "set-cookie" not in found["headers"]


async def test_an_accepted_operation_is_polled_where_it_says_until_it_is_done() -> None:
    def route(asked: Asked) -> Answer:
        if asked.method == "POST":
            return 202, {"Location": "/status/1", "Retry-After": "1"}, b""
        if len(server.asked) < 3:
            return 202, {"Location": "/status/2", "Retry-After": "0"}, b""
        return 200, {}, b"done"

    async with serving(route) as server:
        app = calling_app(server.url, allow_private=LOOPBACK)
        async with Worker(app, "memory://") as worker:
            handle: Handle[Any] = await worker.client.start(
                "call", {"method": "POST", "url": server.url, "content": "x", "headers": {"Authorization": "mine"}}
            )
            assert (await handle.result(timeout=20))["body"] == "done"
            once = await worker.client.run(
                "call", {"method": "POST", "url": server.url, "enable_polling": False}, timeout=20
            )
    asked = [(asked.method, asked.path, asked.headers.get("authorization")) for asked in server.asked]
    assert asked[:3] == [("POST", "/", "mine"), ("GET", "/status/1", "mine"), ("GET", "/status/2", "mine")]
    assert once["status"] == 202


def test_polling_lasts_for_days_and_survives_whatever_a_timer_does() -> None:
    asked: list[HttpRequest] = []

    def fake(request: HttpRequest) -> HttpResponse:
        asked.append(request)
        if len(asked) < 48:
            return HttpResponse(202, request.url, {"location": "https://elsewhere.example/status"}, retry_after=None)
        return HttpResponse(200, request.url, {}, b"at last")

    async def scenario(env: Environment) -> None:
        env.replace("durable.http", fake)
        began = env.now
        request = {
            "method": "PUT",
            "url": "https://api.example",
            "content": "x",
            "headers": {"x-secret": "s", "accept": "a"},
        }
        found = await env.client.run("call", {**request, "poll_interval": 3600.0})
        assert found["body"] == "at last"
        assert env.now - began >= timedelta(hours=47)

    Environment(calling_app("https://api.example", "https://elsewhere.example")).run(scenario)
    assert asked[1] == HttpRequest("GET", "https://elsewhere.example/status", {"accept": "a"}, None, [])


def test_a_call_that_is_given_up_asks_no_more_in_either_style() -> None:
    asked: list[HttpRequest] = []
    app = App()
    app.allow_http(HttpPolicy(allow=["https://api.example"]))

    @app.orchestrator
    def gives_up(ctx: OrchestrationContext) -> Orchestration[str]:
        call = ctx.call_http("GET", "https://api.example", poll_interval=timedelta(hours=1))
        yield when_any([call, ctx.create_timer(timedelta(minutes=150))])
        assert call.cancel()
        yield ctx.create_timer(timedelta(days=1))
        return "given up"

    def fake(request: HttpRequest) -> HttpResponse:
        asked.append(request)
        return HttpResponse(202, request.url, {"location": "/status"})

    async def scenario(env: Environment) -> None:
        env.replace("durable.http", fake)
        assert await env.client.run(gives_up, instance_id="one") == "given up"
        assert "TimerCancelled" in env.history_text("one")

    Environment(app).run(scenario)
    assert [request.url for request in asked] == ["https://api.example", *["https://api.example/status"] * 2]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:{port}/", "127.0.0.1 is at 127.0.0.1, which is no public address"),
        ("http://localhost:{port}/", "localhost is at"),
        ("http://2130706433:{port}/", "no public address"),
        ("http://[::ffff:127.0.0.1]:{port}/", "no public address"),
        ("http://public.example:{port}/redirects", "inside.example is at 10.0.0.1, which is no public address"),
        ("http://mixed.example:{port}/", "mixed.example is at 10.0.0.1"),
        ("https://public.example:{port}/", "is not among the allowed destinations"),
        ("http://public.example:1/", "is not among the allowed destinations"),
        ("ftp://public.example/", "only http:// and https://"),
        ("http://user:password@public.example:{port}/", "a URL with a user's name or password"),
    ],
)
async def test_what_is_not_allowed_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    # 127.0.0.0/8 plays the public internet where a name is called; 10.0.0.1 is private all the same.
    names = {"public.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}
    resolving(monkeypatch, names | {"mixed.example": ["127.0.0.1", "10.0.0.1"]})

    def route(asked: Asked) -> Answer:
        return 302, {"Location": f"http://inside.example:{server.port}/"}, b""

    async with serving(route) as server:
        private = LOOPBACK if "example" in url else []
        app = calling_app(f"http://*:{server.port}", allow_private=private)
        error = await refusal(app, method="GET", url=url.format(port=server.port), attempts=3)
    assert error.details.is_caused_by(HttpRefusedError)
    assert why in str(error)
    assert len(server.asked) == (1 if "redirects" in url else 0)


def resolving(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Let names resolve as given; return the names that are looked up, as they are."""
    real, looked_up = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in names:
            return real(host, port, *arguments, **options)
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


async def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"api.example": ["127.0.0.1"]}
    looked_up = resolving(monkeypatch, names)
    async with serving(lambda asked: (200, {}, b"here")) as server:
        app = calling_app(f"http://api.example:{server.port}", allow_private=LOOPBACK)
        assert (await answered(app, method="GET", url=f"http://api.example:{server.port}/x"))["body"] == "here"
    assert looked_up == ["api.example"]
    assert server.asked[0].headers["host"] == f"api.example:{server.port}"


async def test_a_host_with_other_letters_is_called_by_its_name_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"xn--mnchen-3ya.example": ["127.0.0.1"]})
    async with serving(lambda asked: (200, {}, b"here")) as server:
        url = f"http://xn--mnchen-3ya.example:{server.port}"
        app = calling_app(url, allow_private=LOOPBACK)
        assert (await answered(app, method="GET", url=url))["body"] == "here"
        assert server.asked[0].headers["host"] == url.removeprefix("http://")
        error = await refusal(app, method="GET", url=url.replace("xn--mnchen-3ya", "münchen"))
        assert "write the host's name in ASCII" in str(error)


def certificate_for(host: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS of a server that can prove to be `host`, and that of a client which believes it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_tls_is_verified_against_the_name_though_the_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resolving(monkeypatch, {"api.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    theirs, ours = certificate_for("api.example", tmp_path)
    monkeypatch.setattr(sending, "verifying", lambda: ours)
    async with serving(lambda asked: (200, {}, b"proved"), tls=theirs) as server:
        app = calling_app(f"https://*:{server.port}", allow_private=LOOPBACK)
        assert (await answered(app, method="GET", url=f"https://api.example:{server.port}/"))["body"] == "proved"
        error = await refusal(app, method="GET", url=f"https://other.example:{server.port}/")
    assert error.details.is_caused_by(HttpFailedError)
    assert "certificate verify failed" in str(error)


async def test_secrets_of_the_policy_go_to_their_destination_alone_and_into_no_history_or_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    resolving(monkeypatch, {"api.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})

    def route(asked: Asked) -> Answer:
        if asked.path == "/moved?token=in-the-query":
            return 307, {"Location": f"http://other.example:{server.port}/there"}, b""
        return 500, {"X-Answer": "canary-answer"}, b""

    async with serving(route) as server:
        api = f"http://api.example:{server.port}"
        policy = {"headers": {api: {"Authorization": lambda: "canary-policy"}}, "allow_private": LOOPBACK}
        app = calling_app(api, f"http://other.example:{server.port}", **policy)
        async with Worker(app, "memory://") as worker:
            request = {"method": "POST", "url": f"{api}/moved?token=in-the-query", "content": "x", "attempts": 2}
            handle: Handle[Any] = await worker.client.start("call", {**request, "headers": {"X-Key": "canary-given"}})
            with pytest.raises(OrchestrationFailedError, match="answered with status 500") as caught:
                await handle.result(timeout=20)
            history = (await handle.history()).export()
    assert caught.value.details.is_caused_by(HttpFailedError)
    first, second, *_ = server.asked
    assert (first.headers["authorization"], first.headers["x-key"]) == ("canary-policy", "canary-given")
    assert (second.method, second.body) == ("POST", b"x")
    assert not {"authorization", "x-key"} & second.headers.keys()
    assert len(server.asked) == 4, "a status of 500 is a failed attempt where there is a retry policy"
    assert b"canary-policy" not in history
    assert "canary" not in caplog.text
    assert "in-the-query" not in caplog.text


async def test_a_secret_with_the_end_of_a_line_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="the header Authorization is no line") as caught:
        HttpPolicy(allow=["a.example"], headers={"a.example": {"Authorization": "canary\n"}})
    assert "canary" not in str(caught.value)
    async with serving(lambda asked: (200, {}, b"")) as server:
        secret = {server.url: {"Authorization": lambda: "canary\n"}}
        app = calling_app(server.url, headers=secret, allow_private=LOOPBACK)
        error = await refusal(app, method="GET", url=server.url, attempts=3)
    assert error.details.is_caused_by(HttpRefusedError)
    assert "the header Authorization is no line" in str(error)
    assert "canary" not in repr(error.details)
    assert not server.asked


@pytest.mark.parametrize("place", ["http://[", "ftp://a.example/", "//u:p@a.example/"])
async def test_an_answer_that_leads_to_no_url_fails_the_call_as_a_refused_request_does(place: str) -> None:
    async with serving(lambda asked: (int(asked.path[1:]), {"Location": place, "Retry-After": "1"}, b"")) as server:
        app = calling_app(server.url, allow_private=LOOPBACK)
        for status in (202, 302):
            error = await refusal(app, method="GET", url=f"{server.url}/{status}")
            assert error.details.error_type == "durable.errors.ActivityFailedError"
            assert error.details.is_caused_by(HttpRefusedError)


async def test_a_body_over_the_limit_is_given_up_and_a_server_that_is_not_there_is_tried_again() -> None:
    async with serving(lambda asked: (200, {}, b"x" * 2000)) as server:
        app = calling_app("http://*:80", f"http://*:{server.port}", allow_private=LOOPBACK, body_bytes_max=1000)
        error = await refusal(app, method="GET", url=f"{server.url}/", attempts=3)
        assert "over the limit of 1000 bytes" in str(error)
        assert len(server.asked) == 1, "what is refused is not tried again"
    app = calling_app(f"http://*:{server.port}", allow_private=LOOPBACK)
    error = await refusal(app, method="GET", url=server.url, attempts=2)
    assert error.details.is_caused_by(HttpFailedError)
    error = await refusal(app, method="GET", url=server.url, timeout=0.000001)
    assert error.details.is_caused_by(TimeoutError)


def test_no_header_leads_a_request_elsewhere_or_makes_two_of_it() -> None:
    async def scenario(env: Environment) -> None:
        wrong = {
            "Host": "inside",
            "content-length": "3",
            "Transfer-Encoding": "chunked",
            "Proxy-X": "y",
            "a": "b\r\nc: d",
            "b": "a space at the end ",
            "a b": "",
        }
        for header in wrong.items():
            with pytest.raises(OrchestrationFailedError, match="header") as caught:
                await env.client.run("call", {"method": "GET", "url": "https://a.example", "headers": dict([header])})
            assert caught.value.details.is_caused_by(ValueError)

    Environment(calling_app("https://a.example")).run(scenario)


def test_nothing_may_be_called_until_the_app_says_so_and_mistakes_are_named() -> None:
    app = App()

    @app.orchestrator
    async def call(ctx: OrchestrationContext, url: str) -> None:
        await ctx.call_http("GET", url)

    async def scenario(env: Environment) -> None:
        with pytest.raises(OrchestrationFailedError, match=r"this app allows no HTTP.*allow_http"):
            await env.client.run(call, "https://api.example")

    Environment(app).run(scenario)
    for wrong in ([], ["https://a.example/path"], ["ftp://a"], ["https://a.*.example"], ["https://u:p@a.example"]):
        with pytest.raises(ValueError):
            HttpPolicy(allow=wrong)
    for wrong_option in ({"allow_private": ["10.0.0.1/8"]}, {"body_bytes_max": 2**21}, {"redirects_max": -1}):
        with pytest.raises(ValueError):
            HttpPolicy(allow=["a.example"], **wrong_option)  # type: ignore[arg-type]
    app.allow_http(HttpPolicy(allow=["a.example"]))
    with pytest.raises(DurableError, match="one HttpPolicy"):
        app.allow_http(HttpPolicy(allow=["b.example"]))


def test_without_the_library_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['httpx'] = None\n"
        "from durable import App, DurableError\nfrom durable.http import HttpPolicy\n"
        "try:\n    App().allow_http(HttpPolicy(allow=['a.example']))\nexcept DurableError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "needs the package 'httpx': pip install 'durable-orchestration[http]'" in done.stdout


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.1.1.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
        ),
        *("198.18.0.1", "203.0.113.5", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1"),
        *(
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fe80::1%eth0",
            "fc00::1",
            "ff02::1",
            "fec0::1",
            "2001:db8::1",
            "::7f00:1",
            "64:ff9b:1:7f00:0:100:808:808",
            "3fff::1",
        ),
    ],
)
def test_no_special_address_is_public(address: str) -> None:
    assert not is_public(address_of(address))


def test_ordinary_addresses_are_public() -> None:
    assert all(is_public(address_of(text)) for text in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"))
