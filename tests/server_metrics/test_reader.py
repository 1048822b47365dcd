"""Scraping of scripted servers and routers: requests, responses and errors."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest

from llamatelemetry.server_metrics.engines import LLAMA_CPP
from llamatelemetry.server_metrics.llama_cpp import parse_slots
from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.scrape import ScrapeError, ServerScrape, SlotUsage
from llamatelemetry.server_metrics.target import parse_target
from tests.server_metrics.scripted import ScriptedModel
from tests.support.loopback_server import ScriptedResponse

BOTH = ["/props", "/metrics"]
NO_ENGINE = "/metrics has no metrics of a known engine (llama.cpp, vLLM, SGLang,"


def samples(readings: ServerScrape) -> dict[str | None, float]:
    return {r.group.model: r.counters["prompt_tokens_total"] for r in readings.awake}


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
        assert reader.scrape() == ServerScrape((), LLAMA_CPP, frozenset({"smol"}))
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

    def test_scrape_raises_when_several_servers_answer_in_turn(self, serve):
        model = ScriptedModel("smol", process_start="old")
        reader = serve(model).reader()
        reader.scrape()
        model.process_start = "new"
        reader.scrape()
        for process_start in ["old", "new"] * 15:
            model.process_start = process_start
            with pytest.raises(ScrapeError, match="several servers answer in turn") as caught:
                reader.scrape()
            assert caught.value.needs_action

    def test_scrape_continues_when_newer_server_remains(self, serve):
        model = ScriptedModel("smol", process_start="old")
        reader = serve(model).reader()
        reader.scrape()
        for process_start in ("new", "old"):
            model.process_start = process_start
            with suppress(ScrapeError):
                reader.scrape()
        model.process_start = "new"
        for _ in range(19):
            with pytest.raises(ScrapeError):
                reader.scrape()
        assert samples(reader.scrape()) == {"smol": 7}

    def test_scrape_works_without_slots_endpoint(self, serve, monkeypatch):
        model = ScriptedModel("smol")
        server = serve(model)
        original = model.respond
        monkeypatch.setattr(
            model,
            "respond",
            lambda path: ScriptedResponse(501) if path == "/slots" else original(path),
        )
        (reading,) = server.reader().scrape().awake
        assert (reading.slots, reading.counters) == (None, {"prompt_tokens_total": 7})

    @pytest.mark.parametrize(
        ("fault", "reason", "needs_action", "paths"),
        [
            (
                ScriptedResponse(401),
                "/props: HTTP 401: set LLAMA_API_KEY to the server's key",
                True,
                BOTH,
            ),
            (ScriptedResponse(404), "/metrics: HTTP 404: metrics may be switched off", True, BOTH),
            (
                ScriptedResponse(302, headers={"Location": "/elsewhere"}),
                "/metrics: HTTP 302",
                True,
                BOTH,
            ),
            (
                ScriptedResponse(503, {"error": {"message": "Loading model"}}),
                "/props: HTTP 503",
                False,
                ["/props"],
            ),
            (ScriptedResponse(502), "/props: HTTP 502", False, ["/props"]),
            (ScriptedResponse(body=b"<html>"), NO_ENGINE, True, BOTH),
            (ScriptedResponse(body=b"[" * 100_000), NO_ENGINE, True, BOTH),
            (ScriptedResponse(body=[]), NO_ENGINE, True, BOTH),
            (ScriptedResponse(chunks=[b"{}"], cut=True), "/props", False, ["/props"]),
        ],
    )
    def test_scrape_raises_for_unexpected_response(self, serve, fault, reason, needs_action, paths):
        server = serve(ScriptedModel("smol"))
        server.fault = fault
        with pytest.raises(ScrapeError) as caught:
            server.reader().scrape()
        assert str(caught.value).startswith(reason)
        assert caught.value.needs_action is needs_action
        assert server.paths == paths

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
            model,
            "respond",
            lambda path: ScriptedResponse(501) if path == "/metrics" else original(path),
        )
        with pytest.raises(ScrapeError, match="start the server with --metrics"):
            server.reader().scrape()

    @pytest.mark.parametrize(
        "value",
        ["NaN", "+Inf", "-Inf", "-1", "18446744073709551615", "1e300", "True", '"7"', "0x7"],
    )
    @pytest.mark.parametrize("name", ["n_tokens_max", "tokens_predicted_total"])
    def test_scrape_omits_only_value_that_is_not_a_count(self, serve, monkeypatch, name, value):
        model = ScriptedModel("smol")
        server = serve(model)
        original = model.respond
        text = f"llamacpp:prompt_tokens_total 7\nllamacpp:{name} {value}\n".encode()
        monkeypatch.setattr(
            model,
            "respond",
            lambda path: ScriptedResponse(body=text) if path == "/metrics" else original(path),
        )
        (reading,) = server.reader().scrape().awake
        assert (reading.counters, reading.gauges) == ({"prompt_tokens_total": 7}, {})


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
        monkeypatch.setattr(gone, "respond", lambda _path: ScriptedResponse(400))
        assert samples(server.reader().scrape()) == {"here": 7}

    def test_scrape_is_limited_to_model_of_url(self, serve):
        server = serve(ScriptedModel("one"), ScriptedModel("two"), router=True)
        reader = server.reader(f"{server.loopback.url}/metrics?model=two")
        assert samples(reader.scrape()) == {"two": 7}
        assert not any("model=one" in path for path in server.paths)


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
