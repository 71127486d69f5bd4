"""HTTP: ask a service for a long operation, and wait for it durably, however long it takes.

The service answers `202 Accepted` and says where to look and when. `call_http` waits and looks, and gives the last answer;
between two looks nothing is held in memory, and a restart changes nothing. What may be called is said once, on the app: a
real one names `https://api.example.com`; this one names the service that it runs itself, in the network of this machine.

    python samples/http_polling.py [STORE_URL]
"""

import asyncio
import http.server
import sys
import threading
from datetime import timedelta
from typing import Any

from durable import App, OrchestrationContext, RetryPolicy, Worker
from durable.http import HttpPolicy


class Reports(http.server.BaseHTTPRequestHandler):
    """The service: a report takes it until somebody has looked twice."""

    looks = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(202, b"", Location="/reports/7", **{"Retry-After": "1"})

    def do_GET(self) -> None:
        Reports.looks += 1
        if Reports.looks < 2:
            self.answer(202, b"", Location=self.path)
        else:
            self.answer(200, b'{"rows": 3}')

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (as above)
        print(f"the service: {format % arguments}")


async def make_report(ctx: OrchestrationContext, service: str) -> int:
    retries = RetryPolicy(timedelta(seconds=1), 5, backoff_coefficient=2)
    answer = await ctx.call_http("POST", f"{service}/reports", {"year": 2026}, poll_interval=1, retry_policy=retries)
    if not answer.is_success:
        raise ValueError(f"the service said {answer.status}")
    rows: int = answer.json()["rows"]
    return rows


async def main(store: str = "memory://") -> int:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reports)
    threading.Thread(target=server.serve_forever).start()
    service = f"http://127.0.0.1:{server.server_port}"
    app = App()
    app.orchestrator(make_report)
    app.allow_http(HttpPolicy(allow=[service], allow_private=["127.0.0.0/8"]))
    try:
        async with Worker(app, store) as worker:
            rows = await worker.client.run(make_report, service, timeout=30)
            print(f"the report has {rows} rows")
            return rows
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
