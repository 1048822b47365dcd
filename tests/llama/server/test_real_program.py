"""`ServerManager` and the clients with a real llama-server program: flags, router, failures.

Without such a program, llama.cpp with the real argument parser replaces it, and tests that need the
program itself are skipped.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llamatelemetry import ServerConfig, ServerManager
from llamatelemetry.genai.server_pids import pids_of
from llamatelemetry.llama import (
    LlamaCppClient,
    LlamaServerError,
    PortTakenError,
    ServerCrashedError,
    StartupTimeoutError,
)
from llamatelemetry.llama.embedded import find_demo_model
from tests.llama.processes import is_gone, wait_until_gone
from tests.support.llama_clients import Driver
from tests.support.recorder import Recorder
from tests.support.tiny_gguf_models import make_llama
from tests.support.waiting import wait_for

pytestmark = pytest.mark.needs("ps")
HELLO = [{"role": "user", "content": "Hello"}]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
LETTERS = {"grammar": "root ::= [a-z]{4}", "max_tokens": 4}
both = pytest.mark.parametrize("kind", ["sync", "async"])


def server_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("llama-server")}


@pytest.fixture
def serve(any_program: Path) -> Iterator[Any]:
    """Create managers of the program; check at the end that no thread of them is left."""
    made: list[ServerManager] = []
    before = server_threads()  # The shared server of the tests has one.

    def make(model: Path | None = None, **fields: Any) -> ServerManager:
        config = ServerConfig(
            model or find_demo_model(), **{"port": 0, "n_ctx": 256, "threads": 1, **fields}
        )
        made.append(ServerManager(config, binary=any_program))
        return made[-1]

    yield make
    for each in made:
        each.stop()
    assert server_threads() == before


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    for name in ("one", "two"):
        make_llama(directory / f"{name}.gguf", chat_template=TEMPLATE)
    return directory


def test_program_accepts_flag_of_every_field(serve):
    # An unknown flag would end the program.
    server = serve(
        n_gpu_layers=0,
        flash_attn=True,
        tensor_split=[3, 1],
        split_mode="none",
        main_gpu=0,
        n_parallel=2,
        n_batch=64,
        n_ubatch=32,
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        mlock=False,
        mmap=False,
        embeddings=True,
        alias="spelled",
        api_key="sk-right",
        chat_template="chatml",
        extra_args=["--no-warmup", "--slots"],
    ).start()
    with LlamaCppClient(server.url, api_key="sk-right") as client:
        response = client.chat(HELLO, 12)
        assert response.model == "spelled"
        assert len(client.embed(["sun", "moon"]).data) == 2
        assert len(client.slots()) == 2
        assert "predicted_tokens_seconds" in client.metrics()
    log = "\n".join(server.logs())
    for pattern in (
        r"load_mode = none",
        r"n_ubatch += 32",
        r"flash_attn += enabled",
    ):
        assert re.search(pattern, log), pattern
    assert "sk-right" not in log
    assert b"sk-right" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_draft_model_is_used(serve):
    with (
        serve(draft_model=find_demo_model()) as server,
        LlamaCppClient(server.url) as client,
    ):
        assert client.chat(HELLO, 12, 0.0).timings.draft_n > 0


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({}, r"flash_attn += auto"),
        ({"flash_attn": True}, r"flash_attn += enabled"),
        ({"flash_attn": False}, r"flash_attn += disabled"),
        ({"mmap": False}, r"load_mode = none"),
        ({"mlock": True}, r"load_mode = mmap\+mlock"),
        ({"mlock": True, "mmap": False}, r"load_mode = mlock"),
    ],
)
def test_program_applies_attention_and_load_mode(serve, tmp_path, fields, pattern):
    server = serve(make_llama(tmp_path / "tiny.gguf"), **fields).start()
    assert re.search(pattern, "\n".join(server.logs()))


def test_calls_record_attributes_and_memory_of_managed_server(serve, recorded: Recorder):
    with serve(n_parallel=2) as server, LlamaCppClient(server.url) as client:
        client.complete("Hi", n_predict=2)
        build = client.props().build_info
        log = "\n".join(server.logs())
    (call,) = recorded.calls()
    (start,) = [span for span in recorded.spans() if span.name == "llama_server start"]
    described = {
        name.removeprefix("llamatelemetry.server."): value
        for name, value in call.attributes.items()
        if name.startswith("llamatelemetry.server.")
    }
    assert described["build"] == build
    assert described["model_file"] == find_demo_model().name
    assert (described["slots"], described["context_length"]) == (2, 256)
    devices = described["memory.devices"]
    for part, kind in (("model", "model"), ("context", "KV"), ("compute", "compute")):
        logged = sum(map(float, re.findall(rf" {kind} buffer size = *([\d.]+) MiB", log)))
        assert len(described[f"memory.{part}"]) == len(devices)
        assert sum(described[f"memory.{part}"]) / 2**20 >= logged - 1 > 1
    assert (
        described.items()
        <= {
            name.removeprefix("llamatelemetry.server."): value
            for name, value in start.attributes.items()
        }.items()
    )
    assert start.attributes["llamatelemetry.server.load_duration"] > 0
    assert "--port" in " ".join(start.attributes["llamatelemetry.server.flags"])


@pytest.mark.needs("llama-server")
class TestRouter:
    @both
    def test_router_serves_models_by_name(self, serve, models, recorded, kind):
        server = serve(models).start()
        with Driver(kind, server.url) as driver:
            assert {model.id for model in driver("models").data} == {"one", "two"}
            assert driver("chat", HELLO, model="one", **LETTERS).model == "one"
            chunks = driver("chat", HELLO, model="two", stream=True, **LETTERS)
            assert chunks[-1].timings.predicted_n == 4
            for _ in range(5):
                driver("complete", "Hi", model="one", n_predict=4, grammar=LETTERS["grammar"])
                assert driver("metrics", model="one")["tokens_predicted_total"] > 0
            props = driver("props", model="two")
            assert props.default_generation_settings.n_ctx == 256
        with Driver(kind, server.url, model="two") as driver:
            assert driver("tokenize", "a")
            assert driver("complete", "Hi", n_predict=4, grammar=LETTERS["grammar"]).content
        spans = recorded.calls()
        assert [span.attributes["gen_ai.request.model"] for span in spans] == [
            "one",
            "two",
            *["one"] * 5,
            "two",
        ]
        for span in spans:
            asked = span.attributes["gen_ai.request.model"]
            assert span.attributes["gen_ai.response.model"] == asked
            assert set(recorded.phases(span)) == {"queue", "prefill", "decode"}
            assert span.attributes["llamatelemetry.server.build"] == props.build_info
            for of_one_model in ("model_file", "context_length", "slots"):
                assert f"llamatelemetry.server.{of_one_model}" not in span.attributes

    @both
    def test_router_rejects_unknown_or_missing_model_name(self, serve, models, recorded, kind):
        server = serve(models).start()
        with Driver(kind, server.url) as driver:
            for wanted, message in (({"model": "three"}, "'three' not found"), ({}, "is missing")):
                for stream in (False, True):
                    with pytest.raises(LlamaServerError, match=message) as caught:
                        driver("chat", HELLO, stream=stream, **wanted)
                    assert (caught.value.status, caught.value.type) == (
                        400,
                        "invalid_request_error",
                    )
            with pytest.raises(LlamaServerError, match="not loaded"):
                # Requesting metrics must not load the model.
                driver("metrics", model="one")
        errors = [span.attributes["error.type"] for span in recorded.calls()]
        assert errors == ["invalid_request_error"] * 4

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_model_processes_end_with_router(self, serve, models, caplog, how):
        server = serve(models).start()
        with LlamaCppClient(server.url) as client:
            for name in ("one", "two"):
                client.chat(HELLO, model=name, **LETTERS)
        url, processes = server.url, pids_of(server.url)
        assert len(processes) == 3, "the router has one child process for each model"
        if how == "stop":
            server.stop()
        else:
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: caplog.records)
        for pid in processes:
            wait_until_gone(pid)
        assert pids_of(url) == frozenset()


class TestFailures:
    # llama.cpp itself sometimes loses its last log lines: in 2 of 150 runs on an idle machine.
    @pytest.mark.flaky(reruns=2, only_rerun="Regex pattern did not match")
    def test_start_raises_for_invalid_model_file(self, serve, tmp_path):
        path = tmp_path / "broken.gguf"
        path.write_bytes(b"GGUF" + bytes(100))
        with pytest.raises(ServerCrashedError, match="failed to load model") as raised:
            serve(path).start()
        assert raised.value.exit_code == 1
        assert any("broken.gguf" in line for line in raised.value.log_lines)

    def test_start_raises_for_unknown_flag(self, serve):
        with pytest.raises(ServerCrashedError, match="invalid argument: --no-such"):
            serve(extra_args=["--no-such"]).start()

    def test_start_raises_when_program_is_killed_while_loading(self, serve):
        server = serve()
        killed: list[int] = []

        def kill(_line: str) -> None:
            if not killed:
                killed.append(server.pid)
                os.kill(server.pid, signal.SIGKILL)

        with pytest.raises(ServerCrashedError, match="terminated by SIGKILL before it was ready"):
            server.start(kill)
        assert is_gone(killed[0])

    @pytest.mark.slow
    def test_start_times_out_when_program_is_suspended_while_loading(self, serve):
        server = serve(startup_timeout_s=1.0)
        stopped: list[int] = []

        def hang(_line: str) -> None:
            if not stopped:
                stopped.append(server.pid)
                os.kill(server.pid, signal.SIGSTOP)

        with pytest.raises(StartupTimeoutError):
            server.start(hang)
        assert is_gone(stopped[0])

    def test_start_raises_when_port_is_taken(self, serve):
        first = serve().start()
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(PortTakenError, match=rf"port {port} is taken"):
            serve(port=port).start()
        assert first.is_healthy()

    @both
    def test_stream_raises_when_program_is_killed(self, serve, recorded, caplog, kind):
        server = serve().start()
        with Driver(kind, server.url) as driver:
            options = {"max_tokens": 200, "ignore_eos": True}
            stream = driver.run(driver.client.chat(HELLO, stream=True, **options))
            chunk = driver.run(anext(stream)) if driver.is_async else next(stream)
            assert chunk.choices
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
                driver.listed(stream)
            assert driver.busy_connections() == 0
            wait_for(lambda: caplog.records)
            span = recorded.calls()[-1]
            assert span.attributes["error.type"].startswith("httpx2.")
            assert span.attributes["gen_ai.response.id"] == chunk.id
            server.restart()
            assert driver("chat", HELLO, 2).usage.completion_tokens == 2

    @pytest.mark.slow
    @both
    def test_call_times_out_when_program_is_suspended(self, serve, recorded, kind):
        server = serve().start()
        with Driver(kind, server.url, timeout_s=2.0) as driver:
            driver("chat", HELLO, 2)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(httpx2.ReadTimeout):
                    driver("chat", HELLO, 2)
                assert not server.is_healthy()
            finally:
                os.kill(server.pid, signal.SIGCONT)
        assert recorded.calls()[-1].attributes["error.type"] == "httpx2.ReadTimeout"
        assert "http.request.resend_count" not in recorded.calls()[-1].attributes

    @both
    @pytest.mark.parametrize("key", [None, "sk-wrong"])
    def test_server_rejects_wrong_api_key(self, serve, recorded, kind, key):
        server = serve(api_key="sk-right").start()
        with Driver(kind, server.url, api_key=key) as driver:
            with pytest.raises(LlamaServerError) as caught:
                driver("chat", HELLO)
            assert (caught.value.status, caught.value.type) == (401, "authentication_error")
        assert recorded.calls()[-1].attributes["error.type"] == "authentication_error"
