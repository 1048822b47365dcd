"""Scraping of scripted servers: requests, monotonic totals, reporting and takeover."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics import ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

from llamatelemetry.server_metrics import ServerMetrics, instruments
from llamatelemetry.server_metrics.reader import (
    ScrapeError,
    ServerReader,
    ServerScrape,
    SlotUsage,
    parse_slots,
)
from llamatelemetry.server_metrics.target import api_key_from_environment, parse_target
from llamatelemetry.server_metrics.totals import ModelTotals
from tests.llama.loopback import Asked, Loopback, Reply, loopback
from tests.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."


@dataclass
class ScriptedModel:
    """One model of a scripted server."""

    name: str
    counters: dict[str, float] = field(default_factory=lambda: {"prompt_tokens_total": 7.0})
    process_start: str = "1"
    sleeping: bool = False
    status: str = "loaded"
    props_sleeping: bool = True
    """Whether `/props` reports that the model is asleep."""
    slots: list[dict[str, Any]] = field(
        default_factory=lambda: [{"n_ctx": 512, "is_processing": False, "n_prompt_tokens": 5}]
    )

    def respond(self, path: str) -> Reply:
        if path == "/props":
            asleep = self.sleeping and self.props_sleeping
            return Reply(body={"model_alias": self.name, "is_sleeping": asleep})
        if path == "/slots":
            return Reply(body=self.slots)
        if path == "/metrics":
            lines = [f"llamacpp:{name} {value:g}" for name, value in self.counters.items()]
            process_start = (
                {"Process-Start-Time-Unix": self.process_start} if self.process_start else {}
            )
            return Reply(body="\n".join(lines).encode() + b"\n", headers=process_start)
        return Reply(404, {"error": {"code": 404}})


class Scripted:
    """A server with one model, or a router with several."""

    def __init__(self, *models: ScriptedModel, router: bool = False) -> None:
        self.models = {model.name: model for model in models}
        self.router = router
        self.fault: Reply | None = None
        self.loopback: Loopback

    def respond(self, asked: Asked) -> Reply:
        if self.fault is not None:
            return self.fault
        url = urlsplit(asked.path)
        query = parse_qs(url.query)
        if not self.router:
            return next(iter(self.models.values())).respond(url.path)
        if "model" in query:
            if query.get("autoload") != ["false"]:
                raise AssertionError(f"{asked.path} would load a model")
            model = self.models[query["model"][0]]
            if model.status not in ("loaded", "sleeping"):
                return Reply(400, {"error": {"message": "model is not loaded"}})
            return model.respond(url.path)
        if url.path == "/props":
            return Reply(body={"role": "router", "model_alias": "none", "is_sleeping": False})
        assert url.path == "/models", asked.path
        listed = [{"id": m.name, "status": {"value": m.status}} for m in self.models.values()]
        return Reply(body={"data": listed})

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.loopback.asked]

    def reader(self, url: str = "", api_key: str | None = None) -> ServerReader:
        return ServerReader(parse_target(url or f"{self.loopback.url}/metrics", api_key))


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    open_servers = []

    def start(*models: ScriptedModel, router: bool = False) -> Scripted:
        server = Scripted(*models, router=router)
        context = loopback(server.respond)
        server.loopback = context.__enter__()
        open_servers.append(context)
        return server

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)


def samples(readings: ServerScrape) -> dict[str | None, float]:
    return {r.model: r.samples["prompt_tokens_total"] for r in readings.awake}


class TestOneServer:
    def test_scrape_names_model_by_first_alias(self, serve):
        server = serve(ScriptedModel("smol,other-name"))
        assert samples(server.reader().scrape()) == {"smol": 7}

    def test_scrape_names_model_without_alias_by_file_name(self, serve):
        server = serve(ScriptedModel("/models/of/a-user/smol.gguf"))
        assert samples(server.reader().scrape()) == {"smol.gguf": 7}

    def test_scrape_sends_only_props_to_sleeping_model(self, serve):
        server = serve(ScriptedModel("smol", sleeping=True))
        reader = server.reader()
        assert reader.scrape() == ServerScrape((), frozenset({"smol"}))
        assert server.paths == ["/props"]

    def test_scrape_requests_slots_only_after_activity(self, serve):
        # Each request to /slots counts as use and delays the sleep of an idle model.
        model = ScriptedModel("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        reader = server.reader()
        first = [reader.scrape().awake[0].slots for _ in range(3)]
        assert first == [SlotUsage(1, 0, 5, 512)] * 3
        assert server.paths.count("/slots") == 1
        model.counters["prompt_tokens_total"] = 8
        model.slots = [{"n_ctx": 512, "is_processing": True, "n_prompt_tokens": 9}]
        assert [reader.scrape().awake[0].slots for _ in range(2)] == [SlotUsage(1, 1, 9, 512)] * 2
        assert server.paths.count("/slots") == 2

    @pytest.mark.parametrize(
        "counters",
        [
            {"requests_processing": 1},
            {"requests_processing": 0, "requests_deferred": 2},
            {"prompt_tokens_total": 7},
        ],
        ids=["processing", "deferred", "build without request gauges"],
    )
    def test_scrape_requests_slots_while_requests_run(self, serve, counters):
        server = serve(ScriptedModel("smol", counters))
        reader = server.reader()
        for _ in range(3):
            reader.scrape()
        assert server.paths.count("/slots") == 3

    def test_scrape_requests_slots_after_restart(self, serve):
        model = ScriptedModel("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        reader = server.reader()
        reader.scrape()
        model.process_start = "2"
        reader.scrape()
        assert server.paths.count("/slots") == 2

    def test_scrape_works_without_slots_endpoint(self, serve, monkeypatch):
        model = ScriptedModel("smol")
        server = serve(model)
        original = model.respond
        monkeypatch.setattr(
            model, "respond", lambda path: Reply(501) if path == "/slots" else original(path)
        )
        (reading,) = server.reader().scrape().awake
        assert (reading.slots, reading.samples) == (None, {"prompt_tokens_total": 7})

    @pytest.mark.parametrize(
        ("fault", "reason", "needs_action"),
        [
            (Reply(401), "/props: HTTP 401: set LLAMA_API_KEY to the server's key", True),
            (Reply(404), "/props: HTTP 404", True),
            (Reply(302, headers={"Location": "/elsewhere"}), "/props: HTTP 302", True),
            (Reply(503, {"error": {"message": "Loading model"}}), "/props: HTTP 503", False),
            (Reply(502), "/props: HTTP 502", False),
            (Reply(body=b"<html>"), "/props is not JSON", True),
            (Reply(body=b"[" * 100_000), "/props is not JSON", True),
            (Reply(body=[]), "/props is not llama.cpp's", True),
            (Reply(pieces=[b"{}"], cut=True), "/props", False),
        ],
    )
    def test_scrape_raises_for_unexpected_response(self, serve, fault, reason, needs_action):
        server = serve(ScriptedModel("smol"))
        server.fault = fault
        with pytest.raises(ScrapeError) as caught:
            server.reader().scrape()
        assert str(caught.value).startswith(reason)
        assert caught.value.needs_action is needs_action
        assert server.paths == ["/props"]

    def test_scrape_bypasses_proxy_for_loopback(self, serve, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert samples(serve(ScriptedModel("smol")).reader().scrape())

    def test_scrape_raises_when_connection_is_refused(self):
        with pytest.raises(ScrapeError, match="refused") as caught:
            ServerReader(parse_target("http://127.0.0.1:9/metrics")).scrape()
        assert not caught.value.needs_action

    def test_scrape_names_flag_when_metrics_are_off(self, serve, monkeypatch):
        model = ScriptedModel("smol")
        server = serve(model)
        original = model.respond
        monkeypatch.setattr(
            model, "respond", lambda path: Reply(501) if path == "/metrics" else original(path)
        )
        with pytest.raises(ScrapeError, match="start the server with --metrics"):
            server.reader().scrape()

    def test_scrape_omits_nan(self, serve):
        server = serve(
            ScriptedModel("smol", {"prompt_tokens_total": 7, "n_tokens_max": float("nan")})
        )
        assert server.reader().scrape().awake[0].samples == {"prompt_tokens_total": 7}


class TestRouter:
    def test_scrape_requests_metrics_of_loaded_awake_models_only(self, serve):
        server = serve(
            ScriptedModel("org/loaded"),
            ScriptedModel("unloaded", status="unloaded"),
            ScriptedModel("loading", status="loading"),
            ScriptedModel("downloading", status="downloading"),
            ScriptedModel("sleeping", status="sleeping", sleeping=True),
            ScriptedModel("dozing", status="loaded", sleeping=True),
            router=True,
        )
        found = server.reader().scrape()
        assert samples(found) == {"org/loaded": 7}
        assert found.asleep == {"sleeping", "dozing"}
        asked_about = [
            (urlsplit(path).path, parse_qs(urlsplit(path).query).get("model", [None])[0])
            for path in server.paths
        ]
        assert asked_about == [
            ("/props", None),
            ("/models", None),
            ("/props", "org/loaded"),
            ("/metrics", "org/loaded"),
            ("/slots", "org/loaded"),
            ("/props", "dozing"),
        ]

    def test_scrape_never_loads_model(self, serve):
        # A model may be unloaded after the list was returned.
        server = serve(ScriptedModel("one"), ScriptedModel("a b/c?d&e"), router=True)
        assert samples(server.reader().scrape()) == {"one": 7, "a b/c?d&e": 7}
        of_models = [path for path in server.paths if "?" in path]
        assert len(of_models) == 6
        assert all(path.endswith("&autoload=false") for path in of_models)

    def test_scrape_continues_when_model_was_unloaded(self, serve, monkeypatch):
        gone = ScriptedModel("gone")
        server = serve(gone, ScriptedModel("here"), router=True)
        monkeypatch.setattr(gone, "respond", lambda _path: Reply(400))
        assert samples(server.reader().scrape()) == {"here": 7}

    def test_scrape_is_limited_to_model_of_url(self, serve):
        server = serve(ScriptedModel("one"), ScriptedModel("two"), router=True)
        reader = server.reader(f"{server.loopback.url}/metrics?model=two")
        assert samples(reader.scrape()) == {"two": 7}
        assert not any("model=one" in path for path in server.paths)


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "base_url", "attributes"),
        [
            ("http://h:8080/metrics", "http://h:8080", {"server.port": 8080}),
            ("http://h:8080", "http://h:8080", {"server.port": 8080}),
            ("https://h/metrics/", "https://h", {"server.port": 443}),
            ("http://h/a/b/metrics", "http://h/a/b", {"server.port": 80, "url.path": "/a/b"}),
        ],
    )
    def test_parse_target_splits_url(self, url, base_url, attributes):
        target = parse_target(url)
        assert target.base_url == base_url
        assert target.attributes == {
            "gen_ai.provider.name": "llama_cpp",
            "server.address": "h",
            **attributes,
        }
        assert target.headers == {}

    @pytest.mark.parametrize(
        ("url", "key", "sent"),
        [
            ("{}/metrics", None, None),
            ("{}/metrics", "k", "Bearer k"),
            ("{}/metrics".replace("{}", "user:pa%3Ass@"), "k", "Basic dXNlcjpwYTpzcw=="),
        ],
    )
    def test_target_sends_credentials_but_does_not_show_them(self, serve, url, key, sent):
        server = serve(ScriptedModel("smol"))
        origin = server.loopback.url
        url = (
            f"{origin}/metrics"
            if url.startswith("{}")
            else f"http://{url}".replace("@", f"@{urlsplit(origin).netloc}")
        )
        server.reader(url, key).scrape()
        assert {asked.headers.get("authorization") for asked in server.loopback.asked} == {sent}
        target = parse_target(url, key)
        for secret in ("pa%3Ass", "pa:ss", 'k"', "Bearer", "Basic"):
            assert secret not in f"{target} {target.base_url} {target.attributes}"

    def test_api_key_is_read_from_variable_of_server(self, monkeypatch):
        monkeypatch.setenv("LLAMA_API_KEY", " secret ")
        assert api_key_from_environment() == "secret"
        monkeypatch.setenv("LLAMA_API_KEY", "")
        assert api_key_from_environment() is None


def test_docs_list_every_metric_with_unit_and_kind():
    made = {
        "counter": (*instruments.COUNTERS, instruments.ACCEPTED_PER_POSITION),
        "up-down counter": (
            *instruments.UP_DOWN_COUNTERS,
            instruments.SLOTS,
            instruments.KV_USAGE,
        ),
        "gauge": (*instruments.GAUGES, instruments.KV_UTILIZATION),
    }
    page = (Path(__file__).parents[2] / "docs" / "llamacpp-metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)` \| ([a-z- ]+) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (spec.name, spec.unit, kind) for kind, specs in made.items() for spec in specs
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([{"n_ctx": 10}, {"n_ctx": 10, "is_processing": True}], SlotUsage(2, 1, 0, 20)),
        (
            # `n_prompt_tokens` includes `n_decoded`.
            [{"n_ctx": 10, "n_prompt_tokens": 4, "next_token": [{"n_decoded": 2}]}],
            SlotUsage(1, 0, 4, 10),
        ),
        ([], None),
        ({}, None),
        ([{}], None),
        ([{"n_ctx": "10"}], None),
        ([None], None),
    ],
)
def test_parse_slots_sums_usage(reply, expected):
    assert parse_slots(reply) == expected


def counted(*values: float) -> dict[str, float]:
    return {f"{name}_total": value for name, value in zip("ab", values, strict=False)}


class TestTotals:
    @pytest.mark.parametrize(
        ("readings", "expected"),
        [
            ([("1", 5)], 5),
            ([("1", 5), ("1", 7)], 7),
            ([("1", 5), ("2", 2)], 7),
            # The new process counts past the earlier one.
            ([("1", 5), ("2", 8)], 13),
            ([("1", 5), (None, 2)], 7),
            ([("1", 5), (None, 8)], 8),
            ([(None, 5), (None, 2), (None, 1)], 8),
            ([("1", 5), ("2", 0), ("2", 0), ("3", 1)], 6),
        ],
    )
    def test_totals_add_counts_of_earlier_processes(self, readings, expected):
        totals = ModelTotals()
        for process_start, value in readings:
            totals.update(counted(value), process_start)
        assert totals.totals() == counted(expected)

    def test_totals_treat_decrease_of_one_counter_as_restart(self):
        totals = ModelTotals()
        totals.update(counted(5, 5), None)
        totals.update(counted(1, 9), None)
        assert totals.totals() == counted(6, 14)

    def test_totals_continue_after_sleep_unless_counters_restart(self):
        totals = ModelTotals()
        totals.update(counted(5), "1")
        totals.update(counted(6), "2", slept=True)
        assert totals.totals() == counted(6)
        totals.update(counted(1), "3", slept=True)
        assert totals.totals() == counted(7)

    def test_totals_keep_counter_missing_in_other_build(self):
        totals = ModelTotals()
        totals.update(counted(5, 5), "1")
        totals.update(counted(3), "2")
        assert totals.totals() == counted(8, 5)
        totals.update(counted(1, 1), "3")
        totals.update(counted(2), "3")
        assert totals.totals() == counted(10, 6)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["1", "2", "3", None]),
                st.lists(st.integers(0, 1000), min_size=2, max_size=2),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    def test_totals_never_decrease(self, readings):
        totals = ModelTotals()
        before: dict[str, float] = {}
        for process_start, values, slept in readings:
            totals.update(counted(*values), process_start, slept=slept)
            now = totals.totals()
            assert all(now[name] >= value for name, value in before.items())
            assert all(now[name] >= value for name, value in counted(*values).items())
            totals = ModelTotals.from_json(totals.to_json())
            assert totals.totals() == now
            before = now

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            {"current": 3},
            {"current": {"a_total": "x"}},
            {"earlier": {"a_total": -1}, "process_start": 7},
        ],
    )
    def test_from_json_ignores_invalid_state(self, data):
        assert ModelTotals.from_json(data).totals() == {}


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
        caplog.set_level(logging.INFO, "llamatelemetry.llama")
        server = serve(ScriptedModel("smol"))
        server.fault = Reply(503)
        start(server)
        wait_for(lambda: server.paths.count("/props") >= 2)
        server.fault = None
        wait_for(lambda: self.values(recorder))
        lines = [(r.levelname, r.getMessage().partition(" from ")[2]) for r in caplog.records]
        assert lines == [
            ("INFO", f"{server.loopback.url} (/props: HTTP 503); retrying"),
            ("INFO", f"{server.loopback.url} again"),
        ]

    def test_misconfiguration_is_logged_as_warning_without_secrets(self, serve, start, caplog):
        server = serve(ScriptedModel("smol"))
        server.fault = Reply(401)
        host = urlsplit(server.loopback.url).netloc
        start(f"http://user:secret@{host}/metrics")
        wait_for(lambda: caplog.records)
        (record,) = [each for each in caplog.records if each.name == "llamatelemetry.llama"]
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
        file.write_text('{"smol": {"current": {"prompt_tokens_total": 1e400')
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
        points = [p for s in scopes for m in s.metrics for p in m.data.data_points]
        increases.extend(point.value for point in points)
        return len(points)

    model.slots = []
    metrics, reader, provider = process()
    wait_for(lambda: collect(reader))
    model.counters["prompt_tokens_total"] = 10
    wait_for(lambda: collect(reader) and sum(increases) == 3)
    server.fault = Reply(503)
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
