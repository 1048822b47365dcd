"""Scraping of servers that are not llama.cpp: attributes, restarts, replicas and hostile texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llamatelemetry.server_metrics import ServerMetrics
from llamatelemetry.server_metrics.vocabulary import FIGURES
from tests.server_metrics.scripted import Scripted, ScriptedModel
from tests.support.loopback_server import Loopback, ReceivedRequest, ScriptedResponse, loopback
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

PREFIX = "llamatelemetry.server."
TEXTS = Path(__file__).parents[1] / "support" / "engine_metrics"
KINDS = {figure.name: figure for figure in FIGURES}


class Engine:
    """A server that responds with a text to one path, and with 404 to all others."""

    def __init__(self, text: str, path: str = "/metrics") -> None:
        self.text = text
        self.path = path
        self.status = 200
        self.loopback: Loopback

    def respond(self, asked: ReceivedRequest) -> ScriptedResponse:
        if asked.path != self.path and self.status == 200:
            return ScriptedResponse(404)
        return ScriptedResponse(self.status, self.text.encode())

    @property
    def url(self) -> str:
        return f"{self.loopback.url}{self.path}"

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.loopback.asked]


@pytest.fixture
def scrape(recorder: Recorder, tmp_path: Path) -> Iterator[Callable[..., ServerMetrics]]:
    contexts = []
    started: list[ServerMetrics] = []

    def run(*servers: Engine | str) -> ServerMetrics:
        for server in servers:
            if isinstance(server, Engine) and not hasattr(server, "loopback"):
                contexts.append(loopback(server.respond))
                server.loopback = contexts[-1].__enter__()
        urls = [server if isinstance(server, str) else server.url for server in servers]
        metrics = ServerMetrics(
            urls, "shop", meter_provider=recorder.meter_provider, directory=tmp_path
        )
        metrics.start()
        started.append(metrics)
        return metrics

    yield run
    for metrics in started:
        assert metrics.stop()
    for context in contexts:
        context.__exit__(None, None, None)


class Reported:
    """The values that a recorder has now."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def values(self, name: str) -> list[float]:
        return [point.value for point in self._recorder.points(PREFIX + name)]

    def value(self, name: str) -> float | None:
        found = self.values(name)
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def reported(recorder: Recorder) -> Reported:
    return Reported(recorder)


def vllm(*engines: tuple[float, float], start: float | None = None, extra: str = "") -> str:
    """Return a text with prompt tokens and running requests of data-parallel engines."""
    lines = ["vllm:generation_tokens_total 0"] if not engines else []
    for number, (tokens, running) in enumerate(engines):
        labels = f'{{engine="{number}",model_name="m"}}'
        lines.append(f"vllm:generation_tokens_total{labels} {tokens}")
        lines.append(f"vllm:num_requests_running{labels} {running}")
        lines.append(f"vllm:kv_cache_usage_perc{labels} {(number + 1) / 8}")
    if start is not None:
        lines.append(f"process_start_time_seconds {start}")
    return "\n".join([*lines, extra]) + "\n"


@pytest.mark.parametrize(
    "case",
    [
        ("vllm", "/metrics", "vllm", "tiny"),
        ("tensorrt_llm", "/prometheus/metrics", "tensorrt_llm", "llama-3"),
        ("nim", "/v1/metrics", "nim", "meta/llama-3.1-8b-instruct"),
        ("tgi", "/metrics", "tgi", None),
    ],
)
def test_metrics_have_the_names_units_and_attributes_of_the_vocabulary(
    scrape, recorder, reported, case
):
    text, path, provider, model = case
    server = Engine((TEXTS / f"{text}.txt").read_text(), path)
    scrape(server)
    wait_for(lambda: reported.values("generated_tokens"))
    expected = {
        "gen_ai.provider.name": provider,
        "server.address": "127.0.0.1",
        "server.port": urlsplit(server.url).port,
    }
    if path != "/metrics":
        expected["url.path"] = path.removesuffix("/metrics")
    of_model = {} if model is None else {"gen_ai.request.model": model}
    found = recorder.metrics()
    assert found.pop(f"{PREFIX}up").data.data_points[0].attributes == expected
    for name, metric in found.items():
        figure = KINDS[name.removeprefix(PREFIX)]
        assert metric.unit == figure.unit
        assert getattr(metric.data, "is_monotonic", None) == (
            None if figure.kind == "gauge" else figure.kind == "counter"
        )
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            detail = attributes.pop(figure.detail, None)
            assert attributes == expected | of_model
            assert (detail is None) == (
                figure.detail is None or name.endswith("kv_cache_usage")
            ) or (provider == "tgi" and name.endswith("requests_finished"))
    bounds = {
        point.attributes["le"]: point.value
        for point in recorder.points(f"{PREFIX}request_time.bucket")
    }
    assert bounds["+Inf"] == reported.value("request_time.count")


def test_server_is_asked_for_props_once(scrape, reported):
    server = Engine(vllm((5, 1)))
    scrape(server)
    wait_for(lambda: server.paths.count("/metrics") >= 3)
    assert server.paths.count("/props") == 1
    assert reported.value("generated_tokens") == 5


def test_totals_continue_after_reset_of_counters(scrape, reported):
    # Without a process start, as in servers with several processes.
    server = Engine(vllm((100, 1)))
    scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 100)
    server.text = vllm((30, 0))
    wait_for(lambda: reported.value("generated_tokens") == 130)
    server.text = vllm((90, 0))
    wait_for(lambda: reported.value("generated_tokens") == 190)


def test_restart_under_load_is_detected_by_process_start(scrape, reported):
    server = Engine(vllm((100, 1), start=1795886028.37))
    scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 100)
    # More tokens than before the restart, so that no counter has decreased.
    server.text = vllm((140, 8), start=1795886099.5)
    wait_for(lambda: reported.value("generated_tokens") == 240)
    assert reported.value("requests_running") == 8


def test_outage_leaves_only_up(scrape, recorder, reported):
    server = Engine(vllm((100, 1), start=1.0))
    scrape(server)
    wait_for(lambda: reported.value("up") == 1)
    server.status = 503
    wait_for(lambda: not reported.values("generated_tokens"))
    assert reported.value("up") == 0
    assert set(recorder.metrics()) == {f"{PREFIX}up"}
    (point,) = recorder.points(f"{PREFIX}up")
    assert point.attributes["gen_ai.provider.name"] == "vllm"
    server.status, server.text = 200, vllm((7, 1), start=2.0)
    wait_for(lambda: reported.value("generated_tokens") == 107)
    assert reported.value("up") == 1


def test_replicas_are_summed_and_their_fractions_kept_apart(scrape, recorder, reported):
    server = Engine(vllm((100, 1), (50, 2)))
    scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 150)
    assert reported.value("requests_running") == 3

    def usage() -> dict[str, float]:
        return {
            point.attributes["llamatelemetry.server.replica"]: point.value
            for point in recorder.points(f"{PREFIX}kv_cache_usage")
        }

    assert usage() == {"0": 0.125, "1": 0.25}
    # One replica restarts. The other one goes on.
    server.text = vllm((110, 1), (5, 0))
    wait_for(lambda: reported.value("generated_tokens") == 165)


def test_models_of_one_server_are_kept_apart(scrape, recorder, reported):
    text = vllm((100, 1)) + vllm((7, 0)).replace('model_name="m"', 'model_name="n"')
    scrape(Engine(text))
    wait_for(lambda: len(reported.values("generated_tokens")) == 2)
    found = {
        point.attributes["gen_ai.request.model"]: point.value
        for point in recorder.points(f"{PREFIX}generated_tokens")
    }
    assert found == {"m": 100, "n": 7}


def test_servers_behind_one_url_are_not_added_up(scrape, reported, caplog):
    server = Engine(vllm((100, 1), start=1.0))
    scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 100)
    server.text = vllm((900, 1), start=2.0)
    wait_for(lambda: reported.value("generated_tokens") == 1000)
    server.text = vllm((110, 1), start=1.0)
    wait_for(lambda: reported.value("up") == 0)
    assert reported.value("generated_tokens") is None
    assert "several servers answer in turn" in caplog.text


def test_other_engine_at_the_same_url_is_recognized(scrape, serve, recorder, reported):
    server: Scripted = serve(ScriptedModel("smol", {"tokens_predicted_total": 7}))
    scrape(f"{server.loopback.url}/metrics")
    wait_for(lambda: reported.value("generated_tokens") == 7)
    server.fault = ScriptedResponse(503)
    wait_for(lambda: reported.value("up") == 0)
    server.fault = ScriptedResponse(body=vllm((5, 1)).encode())
    wait_for(lambda: reported.value("up") == 1)
    providers = {
        point.attributes["gen_ai.request.model"]: point.attributes["gen_ai.provider.name"]
        for point in recorder.points(f"{PREFIX}generated_tokens")
    }
    assert providers == {"smol": "llama_cpp", "m": "vllm"}


@pytest.mark.slow
def test_second_process_continues_totals_of_the_first(scrape, reported, tmp_path):
    server = Engine(vllm((100, 1), (50, 0), start=1.0))
    first = scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 150)
    second = scrape(server)
    assert list(second.servers()) == list(second.model_samples()) == []
    assert first.stop()
    server.text = vllm((10, 1), (60, 0), start=2.0)
    wait_for(lambda: reported.value("generated_tokens") == 220)


HOSTILE = {
    "NaN": 'vllm:generation_tokens_total{engine="0",model_name="m"} NaN\n',
    "negative": 'vllm:generation_tokens_total{engine="0",model_name="m"} -5\n',
    "infinite": 'vllm:generation_tokens_total{engine="0",model_name="m"} +Inf\n',
    "other type": "# TYPE vllm:generation_tokens_total histogram\n" + vllm((9, 9)),
    "series twice": vllm((9, 9)) + vllm((9, 9)),
    "control characters": "vllm:generation_tokens_total\x00\x1b[31m 5\n\x85\u2028\n",
    "no end": "vllm:generation_tokens_total{" * 10_000,
    "one long line": 'vllm:generation_tokens_total{model_name="' + "\\" * 1_000_001 + "\n",
    "many series": "".join(
        f'vllm:generation_tokens_total{{engine="{n}",model_name="{n}"}} NaN\n' for n in range(9000)
    ),
    "huge": vllm((900, 9)) + "#" * (9 << 20),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_changes_no_total(scrape, reported, text):
    server = Engine(vllm((100, 1)))
    scrape(server)
    wait_for(lambda: reported.value("generated_tokens") == 100)
    server.text = text
    seen = len(server.paths)
    # A server with a long text is scraped less often.
    wait_for(lambda: len(server.paths) >= seen + 3, 100)
    assert set(reported.values("generated_tokens")) <= {100}
    server.text = vllm((104, 1))
    wait_for(lambda: reported.value("generated_tokens") == 104, 100)
