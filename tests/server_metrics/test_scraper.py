"""Reporting of metrics: instruments, logging, and the takeover by another process."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics import ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

from llamatelemetry.server_metrics import ServerMetrics, instruments
from tests.server_metrics.scripted import Scripted, ScriptedModel
from tests.support.loopback_server import ScriptedResponse
from tests.support.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."


def test_docs_list_every_llama_cpp_metric_with_unit_and_kind():
    made = {
        "counter": (*instruments.COUNTERS, instruments.ACCEPTED_PER_POSITION),
        "up-down counter": (
            *instruments.UP_DOWN_COUNTERS,
            instruments.SLOTS,
            instruments.KV_USAGE,
        ),
        "gauge": (*instruments.GAUGES, instruments.KV_UTILIZATION),
    }
    page = (Path(__file__).parents[2] / "docs/observe/server-metrics.md").read_text()
    page = page.partition("## Metrics of llama.cpp")[2]
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)` \| ([a-z- ]+) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (spec.name, spec.unit, kind) for kind, specs in made.items() for spec in specs
    )


class TestReporting:
    @pytest.fixture
    def start(self, recorder, tmp_path) -> Iterator[Callable[..., ServerMetrics]]:
        started: list[ServerMetrics] = []

        def run(*servers: Scripted | str) -> ServerMetrics:
            urls = [s if isinstance(s, str) else f"{s.loopback.url}/metrics" for s in servers]
            metrics = ServerMetrics(
                urls, "shop", meter_provider=recorder.meter_provider, directory=tmp_path
            )
            metrics.start()
            started.append(metrics)
            return metrics

        yield run
        for metrics in started:
            assert metrics.stop()
        assert not [t for t in threading.enumerate() if "server-metrics" in t.name]

    def values(self, recorder, name: str = "prompt_tokens") -> dict[Any, float]:
        return {
            (point.attributes["server.port"], point.attributes.get("gen_ai.response.model")): (
                point.value
            )
            for point in recorder.points(PREFIX + name)
        }

    def test_metrics_cover_several_servers_and_models(self, serve, start, recorder):
        one = serve(ScriptedModel("smol"))
        several = serve(
            ScriptedModel("smol", {"prompt_tokens_total": 1}), ScriptedModel("big"), router=True
        )
        start(one, several)
        ports = [urlsplit(each.loopback.url).port for each in (one, several)]
        expected = {(ports[0], "smol"): 7, (ports[1], "smol"): 1, (ports[1], "big"): 7}
        wait_for(lambda: self.values(recorder) == expected)

    def test_server_with_two_urls_is_scraped_once(self, serve, start, recorder):
        server = serve(ScriptedModel("smol"))
        start(server, server.loopback.url, f"{server.loopback.url}/metrics/")
        wait_for(lambda: self.values(recorder))
        assert set(self.values(recorder).values()) == {7}
        assert [t.name for t in threading.enumerate()].count("llamatelemetry-server-metrics") == 1

    @pytest.mark.slow
    def test_scrapes_are_limited_to_one_per_second(self, serve, start, recorder):
        server = serve(ScriptedModel("smol"))
        started = time.monotonic()
        start(server)
        while time.monotonic() < started + 2.5:
            recorder.points(f"{PREFIX}prompt_tokens")
        assert 1 <= server.paths.count("/metrics") <= 1 + time.monotonic() - started

    def test_sum_over_models_does_not_decrease_when_model_changes(self, serve, start, recorder):
        model = ScriptedModel("smol", process_start="1")
        server = serve(model)
        start(server)
        wait_for(lambda: sum(self.values(recorder).values()) == 7)
        model.name, model.process_start, model.counters = "big", "2", {"prompt_tokens_total": 2}
        wait_for(lambda: sum(self.values(recorder).values()) == 9)

    def test_sleeping_model_keeps_totals_without_gauges(self, serve, start, recorder):
        model = ScriptedModel("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        start(server)
        wait_for(lambda: self.values(recorder, "requests_processing"))
        model.sleeping = True
        wait_for(lambda: not self.values(recorder, "requests_processing"))
        assert set(self.values(recorder).values()) == {7}
        assert not self.values(recorder, "kv_cache.estimated_usage")
        # When a model wakes up, some builds report a new process start but continue counting.
        model.sleeping, model.process_start, model.counters["prompt_tokens_total"] = False, "2", 8
        wait_for(lambda: set(self.values(recorder).values()) == {8})

    def test_accepted_tokens_are_reported_by_draft_position(self, serve, start, recorder):
        name = 'spec_decode_num_accepted_tokens_per_pos_total{{position="{}"}}'
        server = serve(ScriptedModel("smol", {name.format(0): 9, name.format(1): 4}))
        start(server)
        wait_for(lambda: recorder.points(f"{PREFIX}accepted_tokens_per_position"))
        found = {
            point.attributes["llamatelemetry.draft.position"]: point.value
            for point in recorder.points(f"{PREFIX}accepted_tokens_per_position")
        }
        assert found == {0: 9, 1: 4}

    def test_averages_that_scrapes_reset_are_not_reported(self, serve, start, recorder):
        server = serve(
            ScriptedModel(
                "smol",
                {
                    "prompt_tokens_total": 7,
                    "prompt_tokens_seconds": 3,
                    "predicted_tokens_seconds": 4,
                },
            )
        )
        start(server)
        wait_for(lambda: self.values(recorder))
        values = [p.value for m in recorder.metrics().values() for p in m.data.data_points]
        assert not {3, 4} & set(values)

    @pytest.mark.slow
    def test_outage_and_recovery_are_logged_once(self, serve, start, recorder, caplog):
        caplog.set_level(logging.INFO, "llamatelemetry.server_metrics")
        server = serve(ScriptedModel("smol"))
        server.fault = ScriptedResponse(503)
        start(server)
        wait_for(lambda: server.paths.count("/props") >= 2)
        server.fault = None
        wait_for(lambda: self.values(recorder))
        lines = [(r.levelname, r.getMessage().partition(" from ")[2]) for r in caplog.records]
        assert lines == [
            ("WARNING", f"{server.loopback.url} (/props: HTTP 503); retrying"),
            ("INFO", f"{server.loopback.url} again"),
        ]

    def test_misconfiguration_is_logged_as_warning_without_secrets(self, serve, start, caplog):
        server = serve(ScriptedModel("smol"))
        server.fault = ScriptedResponse(401)
        host = urlsplit(server.loopback.url).netloc
        start(f"http://user:secret@{host}/metrics")
        wait_for(lambda: caplog.records)
        (record,) = [
            each for each in caplog.records if each.name == "llamatelemetry.server_metrics"
        ]
        assert record.levelname == "WARNING"
        assert "set LLAMA_API_KEY" in record.getMessage()
        assert "secret" not in record.getMessage()

    @pytest.mark.slow
    def test_second_process_takes_over_when_first_stops(self, serve, start, recorder, tmp_path):
        # Both run in one process here, but still exclude each other.
        model = ScriptedModel("smol")
        server = serve(model)
        first = start(server)
        wait_for(lambda: self.values(recorder))
        second = start(server)
        (file,) = tmp_path.glob("*.json")
        seen_at = file.stat().st_mtime_ns
        # The file is touched without changes, so that its totals are recent at a takeover.
        wait_for(lambda: file.stat().st_mtime_ns != seen_at)
        assert list(second.model_samples()) == []
        model.process_start, model.counters = "2", {"prompt_tokens_total": 1}
        wait_for(lambda: set(self.values(recorder).values()) == {8})
        assert first.stop()
        # The second continues from the totals of the first.
        wait_for(lambda: set(self.values(recorder).values()) == {8})
        assert [sample.totals for sample in second.model_samples()] == [{"prompt_tokens_total": 8}]

    def test_old_saved_totals_are_ignored(self, serve, start, recorder, tmp_path):
        model = ScriptedModel("smol")
        server = serve(model)
        first = start(server)
        wait_for(lambda: self.values(recorder))
        assert first.stop()
        (file,) = tmp_path.glob("*.json")
        os.utime(file, (time.time() - 60, time.time() - 60))
        model.process_start, model.counters = "2", {"prompt_tokens_total": 1}
        start(server)
        wait_for(lambda: set(self.values(recorder).values()) == {1})

    def test_corrupt_saved_totals_are_ignored(self, serve, start, recorder, tmp_path):
        server = serve(ScriptedModel("smol"))
        first = start(server)
        wait_for(lambda: self.values(recorder))
        assert first.stop()
        (file,) = tmp_path.glob("*.json")
        file.write_text('[["llama_cpp", "smol", "", {"current": {"prompt_tokens_total": 1e400')
        start(server)
        wait_for(lambda: set(self.values(recorder).values()) == {7})


@pytest.mark.slow
def test_delta_increases_cover_only_scraped_time(serve, tmp_path):
    # With delta temporality the first data point must not contain counts from before the start.
    model = ScriptedModel("smol", {"prompt_tokens_total": 7})
    server = serve(model)
    increases: list[float] = []

    def process() -> tuple[ServerMetrics, InMemoryMetricReader, SdkMeterProvider]:
        reader = InMemoryMetricReader({ObservableCounter: AggregationTemporality.DELTA})
        provider = SdkMeterProvider([reader], shutdown_on_exit=False)
        metrics = ServerMetrics(
            [server.loopback.url],
            "shop",
            meter_provider=provider,
            directory=tmp_path,
            is_delta=True,
        )
        metrics.start()
        return metrics, reader, provider

    def collect(reader: InMemoryMetricReader) -> int:
        """Collect once. Return the number of data points."""
        data = reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data is not None else ()
        counters = [m for s in scopes for m in s.metrics if m.name != "llamatelemetry.server.up"]
        points = [p for metric in counters for p in metric.data.data_points]
        increases.extend(point.value for point in points)
        return len(points)

    model.slots = []
    # The server counts on when its model wakes up.
    model.sleeping = True
    metrics, reader, provider = process()
    wait_for(lambda: list(metrics.servers()))
    model.sleeping = False
    wait_for(lambda: collect(reader))
    model.counters["prompt_tokens_total"] = 10
    wait_for(lambda: collect(reader) and sum(increases) == 3)
    server.fault = ScriptedResponse(503)
    # Less than the 15 s after which old samples are dropped.
    wait_for(lambda: not collect(reader), 10)
    server.fault, model.process_start, model.counters = None, "2", {"prompt_tokens_total": 4}
    wait_for(lambda: collect(reader) and sum(increases) == 7)
    assert metrics.stop()
    provider.shutdown()

    model.counters = {"prompt_tokens_total": 5}
    metrics, reader, provider = process()
    wait_for(lambda: collect(reader))
    assert metrics.stop()
    provider.shutdown()
    assert sum(increases) == 8
