"""The span of a start, and the registration of a started server."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.genai import internal_errors, known_servers, server_of
from llamatelemetry.llama import (
    ServerConfig,
    ServerCrashedError,
    ServerManager,
)
from tests.support.recorder import Recorder

pytestmark = pytest.mark.needs("ps")


@pytest.fixture(autouse=True)
def global_provider(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", recorder.tracer_provider)


class BrokenProcessor(SpanProcessor):
    """A span processor of the application that raises, at the start or at the end of a span."""

    def __init__(self, at: str) -> None:
        setattr(self, at, self._fail)

    def _fail(self, *_args: object, **_kwargs: object) -> None:
        raise RuntimeError("broken processor")


@pytest.mark.parametrize("at", ["on_start", "on_end"])
def test_server_starts_when_span_processor_raises(manager, recorder: Recorder, at: str):
    internal_errors.set_strict(False)
    recorder.tracer_provider.add_span_processor(BrokenProcessor(at))
    assert manager().start().is_healthy()


def test_start_records_span(manager, recorder: Recorder, model: Path):
    server = manager(
        api_key="sk-hidden",
        n_parallel=2,
        chat_template="{{ private }}",
        extra_args=["--api-prefix", "/llm"],
    ).start()
    (span,) = recorder.spans()
    assert (span.name, span.kind) == ("llama_server start", SpanKind.INTERNAL)
    attributes = dict(span.attributes)
    assert 0 < attributes.pop("llamatelemetry.server.load_duration") < 30
    port = attributes["server.port"]
    assert f":{port}/" in server.url
    assert attributes == {
        "gen_ai.provider.name": "llama_cpp",
        "server.address": "127.0.0.1",
        "server.port": port,
        "llamatelemetry.server.binary": "llama-server",
        "llamatelemetry.server.build": "b4242-abcdef",
        "llamatelemetry.server.context_length": 4096,
        "llamatelemetry.server.flags": (
            "--model tiny.gguf",
            "--alias tiny",
            "--host 127.0.0.1",
            f"--port {port}",
            "--ctx-size 4096",
            "--parallel 2",
            "--n-gpu-layers all",
            "--metrics",
            "--jinja",
            "--chat-template ...",
            "--verbosity 4",
            "--api-prefix llm",
        ),
        "llamatelemetry.server.gpu_layers": 31,
        "llamatelemetry.server.memory.devices": ("CUDA0", "CUDA_Host"),
        "llamatelemetry.server.memory.model": (96573850, 0),
        "llamatelemetry.server.memory.context": (11796480, 0),
        "llamatelemetry.server.memory.compute": (15728640, 1048576),
        "llamatelemetry.server.model_alias": "tiny",
        "llamatelemetry.server.model_file": "tiny.gguf",
        "llamatelemetry.server.model_size": model.stat().st_size,
        "llamatelemetry.server.slots": 2,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_failed_start_records_error_without_log(manager, recorder: Recorder):
    with pytest.raises(ServerCrashedError):
        manager(fault={"dies": "a secret of the log"}).start()
    (span,) = recorder.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == (
        "the llama.cpp server exited with status 1 before it was ready"
    )
    assert span.attributes["error.type"] == "ServerCrashedError"


@pytest.mark.parametrize("name", ["big", "big[q4]"])
def test_span_has_total_size_of_split_model(tmp_path, fake_program, recorder, name):
    for number in (1, 2):
        path = tmp_path / f"{name}-0000{number}-of-00002.gguf"
        path.write_bytes(b"GGUF" + bytes(96))
    config = ServerConfig(tmp_path / f"{name}-00001-of-00002.gguf", port=0)
    with ServerManager(config, binary=fake_program):
        pass
    (span,) = recorder.spans()
    assert span.attributes["llamatelemetry.server.model_size"] == 200


def test_started_server_is_registered_as_llama_cpp(manager):
    port = int(manager().start().url.rpartition(":")[2])
    for host in ("127.0.0.1", "localhost"):
        assert known_servers.provider_of(server_of("http", host, port), "openai") == "llama_cpp"
