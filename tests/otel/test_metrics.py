"""Metrics count what is durable, once, and reach Prometheus over HTTP under the names that the documentation gives them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import prometheus_client
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider

from durable import App, OrchestrationContext, Worker
from durable.otel import Telemetry

DOCUMENTED = Path(__file__).parents[2] / "docs" / "observability.md"


class Scraped:
    """A server as Prometheus would ask it, in this process."""

    def __init__(self, url: str, provider: MeterProvider) -> None:
        self.url = url
        self.telemetry = Telemetry(meter_provider=provider)

    def text(self) -> str:
        with urllib.request.urlopen(self.url) as answer:
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float:
        """The one sample of this name with these labels; of several, their sum."""
        found = []
        for line in self.text().splitlines():
            match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                found.append(float(match[2]))
        assert found, f"no sample of {name} with {labels}"
        return sum(found)


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    provider = MeterProvider(metric_readers=[PrometheusMetricReader()], shutdown_on_exit=False)
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1")
    with contextlib.closing(server.socket):
        try:
            yield Scraped(f"http://127.0.0.1:{server.server_port}/metrics", provider)
        finally:
            server.shutdown()
            thread.join()
            provider.shutdown()


async def test_a_scrape_tells_what_has_happened_under_the_documented_names(scraped: Scraped, store_url: str) -> None:
    app = App()

    @app.activity
    async def halve(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    @app.orchestrator
    async def flow(ctx: OrchestrationContext, number: int) -> int:
        await ctx.create_timer(timedelta(milliseconds=10))
        return await ctx.call_activity(halve, number)

    async with Worker(app, store_url, middleware=[scraped.telemetry], name="w1") as worker:
        client = worker.client
        handles = [await client.start(flow, number) for number in (2, 4, 5)]
        await asyncio.gather(*(handle.wait(timeout=30) for handle in handles))
        await client.start("nobody", instance_id="stalled")
        async with asyncio.timeout(30):
            while worker.health().stalled != 1:
                await asyncio.sleep(0.01)
        text = scraped.text()
        of_flow = {"durable_orchestration_name": "flow"}
        assert scraped.value("durable_orchestration_started_total", **of_flow) == 3
        assert scraped.value("durable_orchestration_ended_total", **of_flow, durable_outcome="completed") == 2
        assert scraped.value("durable_orchestration_ended_total", **of_flow, durable_outcome="failed") == 1
        assert scraped.value("durable_orchestration_stalls_total", error_type="UnknownNameError") == 1
        assert scraped.value("durable_orchestration_stalled", durable_worker_name="w1") == 1
        assert scraped.value("durable_activity_attempts_total", durable_outcome="completed") == 2
        assert scraped.value("durable_activity_duration_seconds_count", durable_outcome="failed") == 1
        assert scraped.value("durable_turn_duration_seconds_count", **of_flow) == 9
        assert scraped.value("durable_timer_lateness_seconds_count") == 3
        assert 0 <= scraped.value("durable_timer_lateness_seconds_sum") < 3
        assert scraped.value("durable_cache_lookups_total") == 6
        assert scraped.value("durable_lease_partitions", durable_worker_name="w1") == 64
        assert 0 < scraped.value("durable_lease_remaining_seconds", durable_worker_name="w1") <= 10
        commits = scraped.value("durable_commit_duration_seconds_count")
        assert 4 <= commits == scraped.value("durable_commit_size_bytes_count")
        assert scraped.value("durable_commit_steps_sum") >= 10
    assert "durable_worker_ready{" not in scraped.text()  # it has stopped, and is told of no more
    documented = set(re.findall(r"`(durable_\w+)`", DOCUMENTED.read_text()))
    told = set(re.findall(r"^# TYPE (durable_\w+) ", text, re.MULTILINE))
    assert told <= documented
    assert documented - told == {
        "durable_commit_refused_total",
        "durable_lease_lost_total",
    }  # nothing of these has happened
