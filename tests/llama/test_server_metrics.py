"""Reading servers' metrics: what is asked, what is left alone, and totals that never go back."""

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

from llamatelemetry.llama.server_metrics import ServerMetrics, instruments
from llamatelemetry.llama.server_metrics.reader import (
    NotReadError,
    Readings,
    ServerReader,
    SlotUse,
    read_slots,
)
from llamatelemetry.llama.server_metrics.target import api_key_from_environment, target_of
from llamatelemetry.llama.server_metrics.totals import ModelTotals
from tests.llama.loopback import Asked, Loopback, Reply, loopback
from tests.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."


@dataclass
class Model:
    """One model of a scripted server. What is asked of it is noted by path."""

    name: str
    counters: dict[str, float] = field(default_factory=lambda: {"prompt_tokens_total": 7.0})
    life: str = "1"
    sleeping: bool = False
    status: str = "loaded"
    props_sleeping: bool = True
    """Whether `/props` tells when it sleeps."""
    slots: list[dict[str, Any]] = field(
        default_factory=lambda: [{"n_ctx": 512, "is_processing": False, "n_prompt_tokens": 5}]
    )

    def answer(self, path: str) -> Reply:
        if path == "/props":
            asleep = self.sleeping and self.props_sleeping
            return Reply(body={"model_alias": self.name, "is_sleeping": asleep})
        if path == "/slots":
            return Reply(body=self.slots)
        if path == "/metrics":
            lines = [f"llamacpp:{name} {value:g}" for name, value in self.counters.items()]
            life = {"Process-Start-Time-Unix": self.life} if self.life else {}
            return Reply(body="\n".join(lines).encode() + b"\n", headers=life)
        return Reply(404, {"error": {"code": 404}})


class Scripted:
    """A server with one model, or a router with several."""

    def __init__(self, *models: Model, router: bool = False) -> None:
        self.models = {model.name: model for model in models}
        self.router = router
        self.fault: Reply | None = None
        self.loopback: Loopback

    def answer(self, asked: Asked) -> Reply:
        if self.fault is not None:
            return self.fault
        url = urlsplit(asked.path)
        query = parse_qs(url.query)
        if not self.router:
            return next(iter(self.models.values())).answer(url.path)
        if "model" in query:
            if query.get("autoload") != ["false"]:
                raise AssertionError(f"{asked.path} would load a model")
            model = self.models[query["model"][0]]
            if model.status not in ("loaded", "sleeping"):
                return Reply(400, {"error": {"message": "model is not loaded"}})
            return model.answer(url.path)
        if url.path == "/props":
            return Reply(body={"role": "router", "model_alias": "none", "is_sleeping": False})
        assert url.path == "/models", asked.path
        listed = [{"id": m.name, "status": {"value": m.status}} for m in self.models.values()]
        return Reply(body={"data": listed})

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.loopback.asked]

    def reader(self, url: str = "", api_key: str | None = None) -> ServerReader:
        return ServerReader(target_of(url or f"{self.loopback.url}/metrics", api_key))


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    open_servers = []

    def start(*models: Model, router: bool = False) -> Scripted:
        server = Scripted(*models, router=router)
        context = loopback(server.answer)
        server.loopback = context.__enter__()
        open_servers.append(context)
        return server

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)


def samples(readings: Readings) -> dict[str | None, float]:
    return {r.model: r.samples["prompt_tokens_total"] for r in readings.awake}


class TestOneServer:
    def test_its_model_is_named_as_in_its_replies(self, serve):
        server = serve(Model("smol,other-name"))
        assert samples(server.reader().read()) == {"smol": 7}

    def test_a_model_without_alias_is_named_by_its_file_never_by_its_folder(self, serve):
        server = serve(Model("/models/of/somebody/smol.gguf"))
        assert samples(server.reader().read()) == {"smol.gguf": 7}

    def test_one_that_sleeps_is_asked_for_nothing_that_could_wake_it(self, serve):
        server = serve(Model("smol", sleeping=True))
        reader = server.reader()
        assert reader.read() == Readings((), frozenset({"smol"}))
        assert server.paths == ["/props"]

    def test_slots_are_asked_for_only_when_something_has_happened(self, serve):
        """To a server that is to sleep when it is idle, each of these questions is work."""
        model = Model("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        reader = server.reader()
        first = [reader.read().awake[0].slots for _ in range(3)]
        assert first == [SlotUse(1, 0, 5, 512)] * 3
        assert server.paths.count("/slots") == 1
        model.counters["prompt_tokens_total"] = 8
        model.slots = [{"n_ctx": 512, "is_processing": True, "n_prompt_tokens": 9}]
        assert [reader.read().awake[0].slots for _ in range(2)] == [SlotUse(1, 1, 9, 512)] * 2
        assert server.paths.count("/slots") == 2

    @pytest.mark.parametrize(
        "counters",
        [
            {"requests_processing": 1},
            {"requests_processing": 0, "requests_deferred": 2},
            {"prompt_tokens_total": 7},
        ],
        ids=["processing", "deferred", "a build that does not say"],
    )
    def test_slots_are_asked_for_as_long_as_there_is_work(self, serve, counters):
        server = serve(Model("smol", counters))
        reader = server.reader()
        for _ in range(3):
            reader.read()
        assert server.paths.count("/slots") == 3

    def test_slots_are_asked_for_again_in_another_life(self, serve):
        model = Model("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        reader = server.reader()
        reader.read()
        model.life = "2"
        reader.read()
        assert server.paths.count("/slots") == 2

    def test_a_server_that_hides_its_slots_is_read_without(self, serve, monkeypatch):
        model = Model("smol")
        server = serve(model)
        answer = model.answer
        monkeypatch.setattr(
            model, "answer", lambda path: Reply(501) if path == "/slots" else answer(path)
        )
        (reading,) = server.reader().read().awake
        assert (reading.slots, reading.samples) == (None, {"prompt_tokens_total": 7})

    @pytest.mark.parametrize(
        ("fault", "reason", "is_refusal"),
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
    def test_any_other_answer_is_an_error_that_says_so(self, serve, fault, reason, is_refusal):
        server = serve(Model("smol"))
        server.fault = fault
        with pytest.raises(NotReadError) as caught:
            server.reader().read()
        assert str(caught.value).startswith(reason)
        assert caught.value.is_refusal is is_refusal
        assert server.paths == ["/props"]

    def test_one_on_loopback_is_asked_past_the_proxy_of_the_environment(self, serve, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert samples(serve(Model("smol")).reader().read())

    def test_nothing_is_listening(self):
        with pytest.raises(NotReadError, match="refused") as caught:
            ServerReader(target_of("http://127.0.0.1:9/metrics")).read()
        assert not caught.value.is_refusal

    def test_without_metrics_it_says_how_to_get_them(self, serve, monkeypatch):
        model = Model("smol")
        server = serve(model)
        answer = model.answer
        monkeypatch.setattr(
            model, "answer", lambda path: Reply(501) if path == "/metrics" else answer(path)
        )
        with pytest.raises(NotReadError, match="start the server with --metrics"):
            server.reader().read()

    def test_what_is_no_number_is_unknown(self, serve):
        server = serve(Model("smol", {"prompt_tokens_total": 7, "n_tokens_max": float("nan")}))
        assert server.reader().read().awake[0].samples == {"prompt_tokens_total": 7}


class TestRouter:
    def test_only_models_that_are_loaded_and_awake_are_asked(self, serve):
        server = serve(
            Model("org/loaded"),
            Model("unloaded", status="unloaded"),
            Model("loading", status="loading"),
            Model("downloading", status="downloading"),
            Model("sleeping", status="sleeping", sleeping=True),
            Model("dozing", status="loaded", sleeping=True),
            router=True,
        )
        found = server.reader().read()
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

    def test_no_question_about_a_model_could_load_it(self, serve):
        """It may have been unloaded since the list was made."""
        server = serve(Model("one"), Model("a b/c?d&e"), router=True)
        assert samples(server.reader().read()) == {"one": 7, "a b/c?d&e": 7}
        of_models = [path for path in server.paths if "?" in path]
        assert len(of_models) == 6
        assert all(path.endswith("&autoload=false") for path in of_models)

    def test_a_model_that_goes_meanwhile_does_not_hide_the_others(self, serve, monkeypatch):
        gone = Model("gone")
        server = serve(gone, Model("here"), router=True)
        monkeypatch.setattr(gone, "answer", lambda _path: Reply(400))
        assert samples(server.reader().read()) == {"here": 7}

    def test_one_model_can_be_picked(self, serve):
        server = serve(Model("one"), Model("two"), router=True)
        reader = server.reader(f"{server.loopback.url}/metrics?model=two")
        assert samples(reader.read()) == {"two": 7}
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
    def test_a_url_is_taken_apart(self, url, base_url, attributes):
        target = target_of(url)
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
    def test_a_key_or_a_password_goes_to_the_server_and_nowhere_else(self, serve, url, key, sent):
        server = serve(Model("smol"))
        origin = server.loopback.url
        url = (
            f"{origin}/metrics"
            if url.startswith("{}")
            else f"http://{url}".replace("@", f"@{urlsplit(origin).netloc}")
        )
        server.reader(url, key).read()
        assert {asked.headers.get("authorization") for asked in server.loopback.asked} == {sent}
        target = target_of(url, key)
        for secret in ("pa%3Ass", "pa:ss", 'k"', "Bearer", "Basic"):
            assert secret not in f"{target} {target.base_url} {target.attributes}"

    def test_the_key_is_in_the_variable_that_the_server_reads(self, monkeypatch):
        monkeypatch.setenv("LLAMA_API_KEY", " secret ")
        assert api_key_from_environment() == "secret"
        monkeypatch.setenv("LLAMA_API_KEY", "")
        assert api_key_from_environment() is None


def test_the_documentation_lists_every_metric_with_its_unit_and_kind():
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
        ([{"n_ctx": 10}, {"n_ctx": 10, "is_processing": True}], SlotUse(2, 1, 0, 20)),
        (
            # `n_decoded` is part of `n_prompt_tokens`.
            [{"n_ctx": 10, "n_prompt_tokens": 4, "next_token": [{"n_decoded": 2}]}],
            SlotUse(1, 0, 4, 10),
        ),
        ([], None),
        ({}, None),
        ([{}], None),
        ([{"n_ctx": "10"}], None),
        ([None], None),
    ],
)
def test_slots_are_read_as(reply, expected):
    assert read_slots(reply) == expected


def counted(*values: float) -> dict[str, float]:
    return {f"{name}_total": value for name, value in zip("ab", values, strict=False)}


class TestTotals:
    @pytest.mark.parametrize(
        ("readings", "expected"),
        [
            ([("1", 5)], 5),
            ([("1", 5), ("1", 7)], 7),
            ([("1", 5), ("2", 2)], 7),
            ([("1", 5), ("2", 8)], 13),  # past the earlier life
            ([("1", 5), (None, 2)], 7),
            ([("1", 5), (None, 8)], 8),
            ([(None, 5), (None, 2), (None, 1)], 8),
            ([("1", 5), ("2", 0), ("2", 0), ("3", 1)], 6),
        ],
    )
    def test_a_new_life_adds_to_the_earlier_ones(self, readings, expected):
        totals = ModelTotals()
        for life, value in readings:
            totals.take(counted(value), life)
        assert totals.totals() == counted(expected)

    def test_one_counter_that_goes_back_is_a_new_life_of_all(self):
        totals = ModelTotals()
        totals.take(counted(5, 5), None)
        totals.take(counted(1, 9), None)
        assert totals.totals() == counted(6, 14)

    def test_waking_up_is_no_new_life_unless_it_counts_from_0(self):
        totals = ModelTotals()
        totals.take(counted(5), "1")
        totals.take(counted(6), "2", slept=True)
        assert totals.totals() == counted(6)
        totals.take(counted(1), "3", slept=True)
        assert totals.totals() == counted(7)

    def test_a_counter_that_another_build_does_not_have_keeps_its_total(self):
        totals = ModelTotals()
        totals.take(counted(5, 5), "1")
        totals.take(counted(3), "2")
        assert totals.totals() == counted(8, 5)
        totals.take(counted(1, 1), "3")
        totals.take(counted(2), "3")
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
    def test_no_total_ever_goes_back(self, readings):
        totals = ModelTotals()
        before: dict[str, float] = {}
        for life, values, slept in readings:
            totals.take(counted(*values), life, slept=slept)
            now = totals.totals()
            assert all(now[name] >= value for name, value in before.items())
            assert all(now[name] >= value for name, value in counted(*values).items())
            totals = ModelTotals.from_json(totals.to_json())
            assert totals.totals() == now
            before = now

    @pytest.mark.parametrize(
        "data",
        [None, [], {"now": 3}, {"now": {"a_total": "x"}}, {"before": {"a_total": -1}, "life": 7}],
    )
    def test_what_is_no_state_of_ours_is_none(self, data):
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

    def test_several_servers_and_models_side_by_side(self, serve, start, recorder):
        one = serve(Model("smol"))
        several = serve(Model("smol", {"prompt_tokens_total": 1}), Model("big"), router=True)
        start(one, several)
        ports = [urlsplit(each.loopback.url).port for each in (one, several)]
        expected = {(ports[0], "smol"): 7, (ports[1], "smol"): 1, (ports[1], "big"): 7}
        wait_for(lambda: self.values(recorder) == expected)

    def test_a_server_that_is_named_twice_is_read_once(self, serve, start, recorder):
        server = serve(Model("smol"))
        start(server, server.loopback.url, f"{server.loopback.url}/metrics/")
        wait_for(lambda: self.values(recorder))
        assert set(self.values(recorder).values()) == {7}
        assert [t.name for t in threading.enumerate()].count("llamatelemetry-server-metrics") == 1

    @pytest.mark.slow
    def test_it_asks_at_most_once_a_second_however_often_metrics_are_collected(
        self, serve, start, recorder
    ):
        server = serve(Model("smol"))
        started = time.monotonic()
        start(server)
        while time.monotonic() < started + 2.5:
            recorder.points(f"{PREFIX}prompt_tokens")
        assert 1 <= server.paths.count("/metrics") <= 1 + time.monotonic() - started

    def test_one_model_after_another_the_sum_does_not_go_back(self, serve, start, recorder):
        model = Model("smol", life="1")
        server = serve(model)
        start(server)
        wait_for(lambda: sum(self.values(recorder).values()) == 7)
        model.name, model.life, model.counters = "big", "2", {"prompt_tokens_total": 2}
        wait_for(lambda: sum(self.values(recorder).values()) == 9)

    def test_gauges_of_a_model_that_sleeps_are_unknown_and_its_totals_stay(
        self, serve, start, recorder
    ):
        model = Model("smol", {"prompt_tokens_total": 7, "requests_processing": 0})
        server = serve(model)
        start(server)
        wait_for(lambda: self.values(recorder, "requests_processing"))
        model.sleeping = True
        wait_for(lambda: not self.values(recorder, "requests_processing"))
        assert set(self.values(recorder).values()) == {7}
        assert not self.values(recorder, "kv_cache.estimated_usage")
        # Some builds call it a new life when a model wakes up, and count on.
        model.sleeping, model.life, model.counters["prompt_tokens_total"] = False, "2", 8
        wait_for(lambda: set(self.values(recorder).values()) == {8})

    def test_positions_of_drafts_are_told_apart(self, serve, start, recorder):
        name = 'spec_decode_num_accepted_tokens_per_pos_total{{position="{}"}}'
        server = serve(Model("smol", {name.format(0): 9, name.format(1): 4}))
        start(server)
        wait_for(lambda: recorder.points(f"{PREFIX}accepted_tokens_per_position"))
        found = {
            point.attributes["llamatelemetry.draft.position"]: point.value
            for point in recorder.points(f"{PREFIX}accepted_tokens_per_position")
        }
        assert found == {0: 9, 1: 4}

    def test_averages_that_each_question_resets_are_not_reported(self, serve, start, recorder):
        server = serve(
            Model(
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
    def test_it_says_once_when_a_server_goes_and_once_when_it_is_back(
        self, serve, start, recorder, caplog
    ):
        caplog.set_level(logging.INFO, "llamatelemetry.llama")
        server = serve(Model("smol"))
        server.fault = Reply(503)
        start(server)
        wait_for(lambda: server.paths.count("/props") >= 2)
        server.fault = None
        wait_for(lambda: self.values(recorder))
        lines = [(r.levelname, r.getMessage().partition(" at ")[2]) for r in caplog.records]
        assert lines == [
            ("INFO", f"{server.loopback.url} are not read for now (/props: HTTP 503)"),
            ("INFO", f"{server.loopback.url} are read again"),
        ]

    def test_what_somebody_has_to_change_is_a_warning_without_secrets(self, serve, start, caplog):
        server = serve(Model("smol"))
        server.fault = Reply(401)
        host = urlsplit(server.loopback.url).netloc
        start(f"http://user:secret@{host}/metrics")
        wait_for(lambda: caplog.records)
        (record,) = [each for each in caplog.records if each.name == "llamatelemetry.llama"]
        assert record.levelname == "WARNING"
        assert "set LLAMA_API_KEY" in record.getMessage()
        assert "secret" not in record.getMessage()

    @pytest.mark.slow
    def test_a_second_process_of_the_service_is_silent_until_the_first_stops(
        self, serve, start, recorder, tmp_path
    ):
        """Here both are in one process: they exclude each other all the same."""
        model = Model("smol")
        server = serve(model)
        first = start(server)
        wait_for(lambda: self.values(recorder))
        second = start(server)
        (file,) = tmp_path.glob("*.json")
        seen_at = file.stat().st_mtime_ns
        # Nothing has changed, and yet: who takes over must see that somebody was there just now.
        wait_for(lambda: file.stat().st_mtime_ns != seen_at)
        assert list(second.figures()) == []
        model.life, model.counters = "2", {"prompt_tokens_total": 1}
        wait_for(lambda: set(self.values(recorder).values()) == {8})
        assert first.stop()
        # The one that takes over goes on from where the first has got to.
        wait_for(lambda: set(self.values(recorder).values()) == {8})
        assert [figures.totals for figures in second.figures()] == [{"prompt_tokens_total": 8}]

    def test_totals_that_a_process_has_left_long_ago_are_not_taken_over(
        self, serve, start, recorder, tmp_path
    ):
        model = Model("smol")
        server = serve(model)
        first = start(server)
        wait_for(lambda: self.values(recorder))
        assert first.stop()
        (file,) = tmp_path.glob("*.json")
        os.utime(file, (time.time() - 60, time.time() - 60))
        model.life, model.counters = "2", {"prompt_tokens_total": 1}
        start(server)
        wait_for(lambda: set(self.values(recorder).values()) == {1})

    def test_a_state_that_is_damaged_is_none(self, serve, start, recorder, tmp_path):
        server = serve(Model("smol"))
        first = start(server)
        wait_for(lambda: self.values(recorder))
        assert first.stop()
        (file,) = tmp_path.glob("*.json")
        file.write_text('{"smol": {"now": {"prompt_tokens_total": 1e400')
        start(server)
        wait_for(lambda: set(self.values(recorder).values()) == {7})


@pytest.mark.slow
def test_increases_add_up_to_what_was_counted_while_somebody_read(serve, tmp_path):
    """With delta temporality the first point of a process must not hold the server's whole life."""
    model = Model("smol", {"prompt_tokens_total": 7})
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
        """How many points there were."""
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
    wait_for(lambda: not collect(reader), 10)  # not because the last reading has got too old
    server.fault, model.life, model.counters = None, "2", {"prompt_tokens_total": 4}
    wait_for(lambda: collect(reader) and sum(increases) == 7)
    assert metrics.stop()
    provider.shutdown()

    model.counters = {"prompt_tokens_total": 5}
    metrics, reader, provider = process()
    wait_for(lambda: collect(reader))
    assert metrics.stop()
    provider.shutdown()
    assert sum(increases) == 8
