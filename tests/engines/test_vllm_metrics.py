"""Scraped metrics of a real vLLM equal what was sent, through a restart under load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llamatelemetry.cli.doctor.machine import scrape_checks
from llamatelemetry.server_metrics import ServerMetrics
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.server_load import Load, last_scrape, scraped
from tests.support.vllm_server import MODEL, vllm_server
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(900)]

MAX_TOKENS = 8
WORKERS = 3
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hello " * 40}],
    "max_tokens": MAX_TOKENS,
}
NAMES = ("requests", "prompt", "generated")


@pytest.fixture
def port(recorder: Recorder, tmp_path: Path) -> Iterator[int]:
    """Return a port that is scraped."""
    port = free_port()
    metrics = ServerMetrics(
        [f"http://127.0.0.1:{port}/metrics"],
        "shop",
        meter_provider=recorder.meter_provider,
        directory=tmp_path,
    )
    metrics.start()
    yield port
    assert metrics.stop()


def test_scraped_totals_equal_what_was_sent_through_a_restart_under_load(
    recorder: Recorder, port: int
) -> None:
    with ExitStack() as first:
        server = first.enter_context(vllm_server(port=port))
        with Load(server.origin, BODY, WORKERS).running() as load:
            load.wait_for_requests(10)
        sent = load.counted()
        wait_for(lambda: scraped(recorder, *NAMES) == sent, timeout_s=60)
        (check,) = scrape_checks(f"{server.origin}/metrics")
        assert (check.status, check.detail.partition(":")[0]) == ("ok", "vLLM")

        with Load(server.origin, BODY, WORKERS).running() as load:
            load.wait_for_requests(5)
            last = last_scrape(recorder, first.close, *NAMES)
        # Requests between the last scrape and the end of the process are lost.
        assert all(sent[name] <= last[name] for name in NAMES)
        killed = load.counted()
        assert last["requests"] <= sent["requests"] + killed["requests"] + WORKERS
        assert last["generated"] <= (sent["generated"] + killed["generated"] + WORKERS * MAX_TOKENS)

    with vllm_server(port=port) as server:
        # More than before the restart, so that no counter needs to decrease.
        with Load(server.origin, BODY, WORKERS).running() as load:
            load.wait_for_requests(last["requests"] + 10)
        total = last + load.counted()
        wait_for(lambda: scraped(recorder, *NAMES) == total, timeout_s=60)
        own = server.metrics()
        assert own["generation_tokens_total"] == load.counted()["generated"]
        for name in ("time_to_first_token", "queue_time", "prefill_time", "request_time"):
            (count,) = recorder.points(f"llamatelemetry.server.{name}.count")
            assert count.value >= total["requests"]
            bounds = recorder.points(f"llamatelemetry.server.{name}.bucket")
            by_bound = {point.attributes["le"]: point.value for point in bounds}
            assert by_bound["+Inf"] == count.value
