"""Metrics of real llama.cpp servers over restarts, model changes and outages."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager
from llamatelemetry.server_metrics import ServerMetrics
from tests.support.components import require
from tests.support.llama_server import embedded_server
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.server_load import Load, last_scrape, scraped
from tests.support.tiny_gguf_models import make_llama
from tests.support.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."
COMMON = "llamatelemetry.server."
WORKERS = 3
MAX_TOKENS = 4


class RealServer:
    """A server that can be restarted on its port under another model name. It counts its tokens."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.served: dict[str, dict[str, int]] = {}
        self._server = contextlib.ExitStack()
        self._model = ""

    def start(self, model: str = "one") -> None:
        require("xllamacpp")
        self._model = model
        options = {"alias": model, "port": self.port, "ctx_size": 1024, "parallel": 2}
        self._server.enter_context(embedded_server(**options, metrics=True, slots=True))

    def stop(self) -> None:
        self._server.close()

    def chat(self, tokens: int = 3) -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            timings = json.load(response)["timings"]
        of_model = self.served.setdefault(self._model, {"prompt": 0, "cached": 0, "predicted": 0})
        of_model["prompt"] += timings["prompt_n"]
        of_model["cached"] += timings["cache_n"]
        of_model["predicted"] += timings["predicted_n"]


@pytest.fixture
def server() -> Iterator[RealServer]:
    server = RealServer()
    server.start()
    yield server
    server.stop()


class Reported:
    """The last recorded totals, in the format of `RealServer.served`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def totals(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name in ("prompt", "cached", "predicted"):
            for point in self._recorder.points(f"{PREFIX}{name}_tokens"):
                model = point.attributes["gen_ai.response.model"]
                found.setdefault(model, {})[name] = point.value
        return found


@pytest.fixture
def reading(recorder: Recorder, server: RealServer, tmp_path: Path) -> Iterator[Reported]:
    reading = ServerMetrics(
        [server.url], "shop", meter_provider=recorder.meter_provider, directory=tmp_path
    )
    reading.start()
    yield Reported(recorder)
    assert reading.stop()


@pytest.mark.slow
def test_totals_equal_served_tokens_after_restart_and_model_change(server, reading):
    server.chat()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)

    server.stop()
    wait_for(lambda: reading.totals() == {})
    server.start()
    # Fewer tokens than before: without the earlier process the total would decrease.
    server.chat()
    wait_for(lambda: reading.totals() == server.served)

    server.stop()
    server.start("two")
    for _ in range(3):
        server.chat()
    wait_for(lambda: reading.totals() == server.served)
    assert set(server.served) == {"one", "two"}

    server.stop()
    server.start("one")
    server.chat()
    wait_for(lambda: reading.totals() == server.served)


@pytest.mark.slow
def test_restart_between_scrapes_is_detected_by_process_start(server, reading):
    # More tokens are served after the restart than before, so that no counter decreases.
    server.chat(2)
    wait_for(lambda: reading.totals() == server.served)
    server.stop()
    server.start()
    for _ in range(4):
        server.chat(6)
    wait_for(lambda: reading.totals() == server.served)


@pytest.mark.slow
def test_common_totals_equal_what_was_sent_through_a_restart_under_load(server, reading, recorder):
    names = ("prompt", "generated")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": MAX_TOKENS}

    def sent(load: Load) -> Counter[str]:
        counted = load.counted()
        return Counter({name: counted[name] for name in names})

    origin = server.url.removesuffix("/metrics")
    with Load(origin, body, WORKERS).running() as load:
        load.wait_for_requests(5)
        before = last_scrape(recorder, server.stop, *names)
    # Only requests that were in flight are counted without their response.
    assert before["generated"] <= sent(load)["generated"] + WORKERS * MAX_TOKENS
    server.start()
    with Load(origin, body, WORKERS).running() as load:
        load.wait_for_requests(10)
    wait_for(lambda: scraped(recorder, *names) == before + sent(load))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_totals_are_correct_after_outage_of_one_minute(server, reading, caplog):
    caplog.set_level("INFO", "llamatelemetry.server_metrics")
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    server.stop()
    wait_for(lambda: reading.totals() == {})
    gone_until = time.monotonic() + 60
    while time.monotonic() < gone_until:
        assert reading.totals() == {}
        time.sleep(1)  # Part of the outage.
    server.start()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    lines = [record.getMessage() for record in caplog.records]
    assert ["Cannot scrape" in line for line in lines] == [True, False], lines


def test_all_metrics_of_real_server_are_reported(server, reading, recorder):
    server.chat()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    found = {
        name.removeprefix(PREFIX): (metric.unit, {type(p.value) for p in metric.data.data_points})
        for name, metric in recorder.metrics().items()
        if name.startswith(PREFIX)
    }
    assert found == {
        "prompt_tokens": ("{token}", {int}),
        "cached_tokens": ("{token}", {int}),
        "prompt_time": ("s", {float}),
        "predicted_tokens": ("{token}", {int}),
        "predicted_time": ("s", {float}),
        "decode_calls": ("{call}", {int}),
        "drafts": ("{draft}", {int}),
        "drafted_tokens": ("{token}", {int}),
        "accepted_tokens": ("{token}", {int}),
        "requests_processing": ("{request}", {int}),
        "requests_deferred": ("{request}", {int}),
        "longest_sequence": ("{token}", {int}),
        "busy_slots_per_decode": ("{slot}", {int}),
        "slots": ("{slot}", {int}),
        "kv_cache.estimated_usage": ("{token}", {int}),
        "kv_cache.estimated_utilization": ("1", {float}),
    }
    attributes = {
        "gen_ai.provider.name": "llama_cpp",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    for name, metric in recorder.metrics().items():
        model = "gen_ai.response.model" if name.startswith(PREFIX) else "gen_ai.request.model"
        of_server = name == f"{COMMON}up"
        for point in metric.data.data_points:
            found = dict(point.attributes)
            found.pop("llamatelemetry.slot.state", None)
            assert found == attributes | ({} if of_server else {model: "one"}), name
    (usage,) = recorder.points(f"{PREFIX}kv_cache.estimated_usage")
    (share,) = recorder.points(f"{PREFIX}kv_cache.estimated_utilization")
    # The prompt of the second request was in the cache. The last generated token of a request is
    # not in the cache.
    served = server.served["one"]
    assert usage.value == served["cached"] + 1 + served["predicted"] // 2 - 1
    assert share.value == pytest.approx(usage.value / 1024)
    states = {
        p.attributes["llamatelemetry.slot.state"]: p.value
        for p in recorder.points(f"{PREFIX}slots")
    }
    assert states == {"busy": 0, "idle": 2}


def test_common_metrics_of_real_server_equal_its_own(server, reading, recorder):
    server.chat()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    served = server.served["one"]
    found = {
        name.removeprefix(COMMON): metric.data.data_points[0].value
        for name, metric in recorder.metrics().items()
        if name.startswith(COMMON)
    }
    times = {name: found.pop(name) for name in ("prefill_time", "decode_time")}
    assert times == {
        "prefill_time": recorder.points(f"{PREFIX}prompt_time")[0].value,
        "decode_time": recorder.points(f"{PREFIX}predicted_time")[0].value,
    }
    assert found == {
        "up": 1,
        "requests_running": 0,
        "requests_waiting": 0,
        "prompt_tokens": served["prompt"] + served["cached"],
        "cached_tokens": served["cached"],
        "prefix_cache_hits": served["cached"],
        "generated_tokens": served["predicted"],
        "drafts": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
    }


@pytest.mark.slow
def test_scraping_does_not_load_models_of_router(program, recorder, tmp_path):
    directory = tmp_path / "models"
    directory.mkdir()
    for name in ("one", "two"):
        make_llama(directory / f"{name}.gguf", chat_template="{{ messages[0].content }}")
    config = ServerConfig(directory, port=0, n_ctx=256, threads=1, n_gpu_layers=0, metrics=True)
    with ServerManager(config, binary=program) as router, LlamaCppClient(router.url) as client:
        reading = ServerMetrics(
            [f"{router.url}/metrics"],
            "shop",
            meter_provider=recorder.meter_provider,
            directory=tmp_path,
        )
        reading.start()
        try:
            # Long enough for two scrapes.
            time.sleep(2.5)
            assert Reported(recorder).totals() == {}
            hi = [{"role": "user", "content": "Hi"}]
            # Random weights generate arbitrary bytes, and the server rejects invalid text.
            response = client.chat(hi, max_tokens=3, model="one", grammar="root ::= [a-z]+")
            served = response.timings
            wait_for(lambda: Reported(recorder).totals().get("one", {}).get("predicted"))
            totals = Reported(recorder).totals()
            assert set(totals) == {"one"}
            assert totals["one"]["prompt"] == served.prompt_n
            assert totals["one"]["predicted"] == served.predicted_n
            status = {model.id: model.status.value for model in client.models().data}
            assert status == {"one": "loaded", "two": "unloaded"}
        finally:
            assert reading.stop()
