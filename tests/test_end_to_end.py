"""An unmodified OpenAI program and a real llama.cpp server, with each way to enable telemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.llama_server import LlamaServer

EXAMPLE = Path(__file__).parent.parent / "examples" / "openai_chat.py"
INSTRUMENT = Path(sys.executable).parent / "opentelemetry-instrument"
CALLS = 10  # what the example makes

OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}
# opentelemetry-distro stands beside ours in this environment: a plain one, with our plugin.
PLAIN = {
    "OTEL_PYTHON_DISTRO": "distro",
    "OTEL_PYTHON_CONFIGURATOR": "configurator",
    "OTEL_TRACES_EXPORTER": "llamatelemetry_file",
    "OTEL_METRICS_EXPORTER": "llamatelemetry_file",
    "OTEL_LOGS_EXPORTER": "none",
}
IN_CODE = """\
import llamatelemetry, runpy, sys
llamatelemetry.init()
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class Recorded:
    """Spans and metric points of one program, read from the files it wrote."""

    def __init__(self, folder: Path) -> None:
        self.spans: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.resources: list[dict[str, Any]] = []
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                self._take(json.loads(line))

    def _take(self, request: dict[str, Any]) -> None:
        for group in request.get("resourceSpans", []):
            self.resources.append(attributes(group["resource"]))
            for scope in group["scopeSpans"]:
                self.spans += [{**span, "scope": scope["scope"]} for span in scope["spans"]]
        for group in request.get("resourceMetrics", []):
            for scope in group["scopeMetrics"]:
                self.metrics += [{**metric, "scope": scope["scope"]} for metric in scope["metrics"]]

    def shapes(self) -> Counter[str]:
        """Return each span with its constant attributes and the name of its parent."""
        names = {span["spanId"]: span["name"] for span in self.spans}
        return Counter(
            json.dumps(
                [
                    span["name"],
                    span["kind"],
                    span["scope"],
                    names.get(span.get("parentSpanId", "")),
                    span.get("status", {}),
                    steady(attributes(span)),
                ],
                sort_keys=True,
            )
            for span in self.spans
        )

    def points(self) -> Counter[str]:
        """Return each metric point with its attributes, boundaries and count."""
        return Counter(
            json.dumps(
                [
                    metric["name"],
                    metric["unit"],
                    metric["scope"],
                    metric["histogram"]["aggregationTemporality"],
                    point["explicitBounds"],
                    point["count"],
                    attributes(point),
                ],
                sort_keys=True,
            )
            for metric in self.metrics
            for point in metric["histogram"]["dataPoints"]
        )


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in holder.get("attributes", [])}


def steady(found: dict[str, Any]) -> dict[str, Any]:
    """Replace values that differ between two runs: times, ids and cached tokens.

    What the server is, is asked for off the path of the calls, and known to the later ones only.
    """
    changing = {"gen_ai.response.id", "gen_ai.usage.cache_read.input_tokens"}
    changing |= {"llamatelemetry.cached_tokens", "llamatelemetry.prompt_tokens"}
    timed = ("_ms", "_duration", "_token", "_chunk")
    return {
        name: next(iter(value)) if name in changing or name.endswith(timed) else value
        for name, value in found.items()
        if not name.startswith("llamatelemetry.server.")
    }


def run(
    server: LlamaServer, folder: Path, command: list[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "none",
        "LLAMATELEMETRY_EXPORT_PATH": str(folder),
        # They stand in this environment too; what is compared here is what we record.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx,httpx2",
        **variables,
    }
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def zero_code(server: LlamaServer, folder: Path, **variables: str) -> Recorded:
    done = run(server, folder, [str(INSTRUMENT), sys.executable, str(EXAMPLE)], **variables)
    assert done.returncode == 0, done.stderr
    return Recorded(folder)


@pytest.fixture(scope="module")
def ours(llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Run the program without code changes, beside an installed opentelemetry-distro."""
    # Once before, so that the prompt cache is as warm for this run as for the ones compared to it.
    zero_code(llama_server, tmp_path_factory.mktemp("warm"), **OURS, LLAMATELEMETRY_EXPORTER="file")
    return zero_code(
        llama_server, tmp_path_factory.mktemp("ours"), **OURS, LLAMATELEMETRY_EXPORTER="file"
    )


def calls(recorded: Recorded) -> list[dict[str, Any]]:
    return [span for span in recorded.spans if span["kind"] == 3]


def test_zero_code_records_every_call_of_unmodified_program(ours: Recorded) -> None:
    assert Counter(span["name"].split(" ")[0] for span in calls(ours)) == {
        "chat": 8,
        "text_completion": 1,
        "embeddings": 1,
    }
    with_phases = [span for span in calls(ours) if "gen_ai.decode_ms" in attributes(span)]
    assert len(with_phases) == 8
    for span in with_phases:
        children = {
            child["name"] for child in ours.spans if child.get("parentSpanId") == span["spanId"]
        }
        assert children == {"queue", "prefill", "decode"}
    assert {metric["name"] for metric in ours.metrics} == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }
    assert ours.resources[0]["telemetry.distro.name"] == {"stringValue": "llamatelemetry"}


@pytest.mark.slow
def test_init_records_same_spans_and_metrics_as_zero_code(
    ours: Recorded, llama_server: LlamaServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", IN_CODE, str(EXAMPLE)]
    done = run(llama_server, tmp_path, command, LLAMATELEMETRY_EXPORTER="file")
    assert done.returncode == 0, done.stderr
    in_code = Recorded(tmp_path)
    assert in_code.shapes() == ours.shapes()
    assert in_code.points() == ours.points()


@pytest.mark.slow
def test_plugin_alone_works_in_opentelemetry_distro(
    ours: Recorded, llama_server: LlamaServer, tmp_path: Path
) -> None:
    plain = zero_code(llama_server, tmp_path, **PLAIN)
    assert plain.shapes() == ours.shapes()
    assert plain.points() == ours.points()
    assert "telemetry.distro.name" not in plain.resources[0]


def test_disabled_sdk_records_nothing_and_starts_no_thread(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    program = (
        "import threading, openai; assert 'request' not in vars(openai.OpenAI); "
        "print(threading.active_count())"
    )
    done = run(
        llama_server,
        tmp_path,
        [str(INSTRUMENT), sys.executable, "-c", program],
        OTEL_SDK_DISABLED="true",
        LLAMATELEMETRY_EXPORTER="file",
        **OURS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_startup_does_not_import_openai(llama_server: LlamaServer, tmp_path: Path) -> None:
    program = (
        "import sys; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'openai', 'httpx', 'httpx2'}))"
    )
    done = run(
        llama_server,
        tmp_path,
        [str(INSTRUMENT), sys.executable, "-c", program],
        LLAMATELEMETRY_EXPORTER="file",
        **OURS,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_program_with_unreachable_server_exits_as_without_instrumentation(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    program = (
        "import openai; openai.OpenAI(base_url='http://127.0.0.1:9/v1', max_retries=0)"
        ".completions.create(model='smol', prompt='Hi')"
    )
    bare = run(llama_server, tmp_path, [sys.executable, "-c", program])
    seen = run(
        llama_server,
        tmp_path,
        [str(INSTRUMENT), sys.executable, "-c", program],
        LLAMATELEMETRY_EXPORTER="file",
        **OURS,
    )
    assert seen.returncode == bare.returncode == 1
    assert (
        seen.stderr.splitlines()[-1]
        == bare.stderr.splitlines()[-1]
        == "openai.APIConnectionError: Connection error."
    )
    (span,) = Recorded(tmp_path).spans
    assert attributes(span)["error.type"] == {"stringValue": "openai.APIConnectionError"}
    assert "refused" in span["status"]["message"]
