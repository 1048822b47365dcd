"""The metrics of a real llama.cpp server: restarted, swapped, gone; read by one of many processes."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager
from llamatelemetry.llama.embedded import EmbeddedOptions, EmbeddedServer, find_demo_model
from llamatelemetry.llama.server_metrics import ServerMetrics
from tests.components import require
from tests.llama.tiny_models import make_llama
from tests.recorder import Recorder
from tests.waiting import wait_for

PREFIX = "llamatelemetry.llamacpp."


class RealServer:
    """A server that can be restarted on its port, with another model's name; counts what it served."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.served: dict[str, dict[str, int]] = {}
        self._server: EmbeddedServer | None = None
        self._model = ""

    def start(self, model: str = "one") -> None:
        require("xllamacpp")
        self._model = model
        options = EmbeddedOptions(
            model_path=find_demo_model(),
            alias=model,
            port=self.port,
            ctx_size=1024,
            parallel=2,
            metrics=True,
            slots=True,
        )
        self._server = EmbeddedServer(options).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def chat(self, tokens: int = 3) -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            timings = json.load(reply)["timings"]
        of_model = self.served.setdefault(self._model, {"prompt": 0, "cached": 0, "predicted": 0})
        of_model["prompt"] += timings["prompt_n"]
        of_model["cached"] += timings["cache_n"]
        of_model["predicted"] += timings["predicted_n"]


def free_port() -> int:
    """One below those that the system hands out: nobody gets it while the server is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def server() -> Iterator[RealServer]:
    server = RealServer()
    server.start()
    yield server
    server.stop()


class Reported:
    """What a recorder was told last, in the shape in which the server counts what it served."""

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
def test_totals_are_those_of_what_was_served_over_a_restart_and_another_model(server, reading):
    server.chat()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)

    server.stop()
    wait_for(lambda: reading.totals() == {})
    server.start()
    server.chat()  # less than before: without the earlier life the total would go back
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
def test_a_restart_that_nobody_saw_is_noticed_by_the_life_of_the_process(server, reading):
    """More is served after it than before: no counter goes back, and yet it began from 0."""
    server.chat(2)
    wait_for(lambda: reading.totals() == server.served)
    server.stop()
    server.start()
    for _ in range(4):
        server.chat(6)
    wait_for(lambda: reading.totals() == server.served)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_minute_without_the_server_leaves_the_totals_right(server, reading, caplog):
    caplog.set_level("INFO", "llamatelemetry.llama")
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    server.stop()
    wait_for(lambda: reading.totals() == {})
    gone_until = time.monotonic() + 60
    while time.monotonic() < gone_until:
        assert reading.totals() == {}
        time.sleep(1)
    server.start()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    said = [record.getMessage() for record in caplog.records]
    assert ["not read" in line for line in said] == [True, False], said


def test_everything_that_is_reported_of_a_server(server, reading, recorder):
    server.chat()
    server.chat()
    wait_for(lambda: reading.totals() == server.served)
    attributes = {
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.response.model": "one",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    found = {
        name.removeprefix(PREFIX): (metric.unit, {type(p.value) for p in metric.data.data_points})
        for name, metric in recorder.metrics().items()
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
    for metric in recorder.metrics().values():
        for point in metric.data.data_points:
            assert {**point.attributes, **attributes} == dict(point.attributes)
            assert set(point.attributes) - set(attributes) <= {"llamatelemetry.slot.state"}
    (usage,) = recorder.points(f"{PREFIX}kv_cache.estimated_usage")
    (share,) = recorder.points(f"{PREFIX}kv_cache.estimated_utilization")
    # The second request found its prompt in the slot of the first. The last token that a
    # request generates is not in the cache.
    served = server.served["one"]
    assert usage.value == served["cached"] + 1 + served["predicted"] // 2 - 1
    assert share.value == pytest.approx(usage.value / 1024)
    states = {
        p.attributes["llamatelemetry.slot.state"]: p.value
        for p in recorder.points(f"{PREFIX}slots")
    }
    assert states == {"busy": 0, "idle": 2}


@pytest.mark.slow
def test_a_real_router_loads_nothing_because_it_is_read(program, recorder, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("one", "two"):
        make_llama(folder / f"{name}.gguf", chat_template="{{ messages[0].content }}")
    config = ServerConfig(folder, port=0, n_ctx=256, threads=1, n_gpu_layers=0, metrics=True)
    with ServerManager(config, binary=program) as router, LlamaCppClient(router.url) as client:
        reading = ServerMetrics(
            [f"{router.url}/metrics"],
            "shop",
            meter_provider=recorder.meter_provider,
            directory=tmp_path,
        )
        reading.start()
        try:
            time.sleep(2.5)  # it has been read by then
            assert Reported(recorder).totals() == {}
            hi = [{"role": "user", "content": "Hi"}]
            # Any bytes come from weights at random; the server refuses what is no text.
            answer = client.chat(hi, max_tokens=3, model="one", grammar="root ::= [a-z]+")
            served = answer.timings
            wait_for(lambda: Reported(recorder).totals().get("one", {}).get("predicted"))
            totals = Reported(recorder).totals()
            assert set(totals) == {"one"}
            assert totals["one"]["prompt"] == served.prompt_n
            assert totals["one"]["predicted"] == served.predicted_n
            status = {model.id: model.status.value for model in client.models().data}
            assert status == {"one": "loaded", "two": "unloaded"}
        finally:
            assert reading.stop()
