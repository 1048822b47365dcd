"""`ServerManager` with a real llama.cpp server and a real model."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from openai import OpenAI

from llamatelemetry import ServerConfig, ServerManager
from llamatelemetry.llama import ServerCrashedError, UnsupportedOptionError
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.llama.processes import chat, is_gone, post
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.needs("xllamacpp", "ps")
SMALL = {"port": 0, "n_ctx": 512, "threads": 1}


def embedded(model: Path | None = None, **fields) -> ServerManager:
    return ServerManager(
        ServerConfig(model or find_demo_model(), **{**SMALL, **fields}), binary="embedded"
    )


def test_server_answers_with_model_name_without_path():
    with embedded(embeddings=True, n_parallel=2) as server:
        response = chat(server.url)
        assert response["model"] == "SmolLM2-135M-Instruct.Q4_1"
        assert response["usage"]["completion_tokens"] == 4
        vectors = post(f"{server.url}/v1/embeddings", {"input": ["sun", "moon"]})["data"]
        assert len(vectors) == 2
        with urllib.request.urlopen(f"{server.url}/props") as props:
            assert json.load(props)["total_slots"] == 2
        with urllib.request.urlopen(f"{server.url}/metrics") as metrics:
            assert b"llamacpp:tokens_predicted_total" in metrics.read()


def test_calls_record_attributes_of_managed_server(recorder: Recorder):
    model = "SmolLM2-135M-Instruct.Q4_1"
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(**recorder.providers)
    try:
        with (
            embedded(alias=model) as server,
            OpenAI(base_url=f"{server.url}/v1", api_key="-") as client,
        ):
            client.completions.create(model=model, prompt="Hi", max_tokens=2)
        described = {
            name: value
            for name, value in recorder.call().attributes.items()
            if name.startswith("llamatelemetry.server.")
        }
    finally:
        instrumentor.uninstrument()
    for name in ("model", "context", "compute"):
        sizes = described.pop(f"llamatelemetry.server.memory.{name}")
        assert max(sizes) > 1_000_000
    assert described == {
        "llamatelemetry.server.model_file": f"{model}.gguf",
        "llamatelemetry.server.build": "b0-unknown",
        "llamatelemetry.server.quantization": "Q4_1",
        "llamatelemetry.server.context_length": 512,
        "llamatelemetry.server.slots": 1,
        "llamatelemetry.server.memory.devices": ("CPU_Mapped", "CPU"),
    }
    assert recorder.call().attributes["gen_ai.provider.name"] == "llama_cpp"


def test_server_rejects_wrong_api_key():
    with embedded(api_key="sk-right") as server:
        assert server.is_healthy()
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(server.url, Authorization="Bearer sk-wrong")
        with refused.value:
            assert refused.value.code == 401
            assert json.load(refused.value)["error"]["type"] == "authentication_error"
        assert chat(server.url, Authorization="Bearer sk-right")["usage"]
        environment = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert b"sk-right" not in environment


def test_start_raises_with_reason_for_corrupt_model(tmp_path: Path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF and nothing else")
    with pytest.raises(ServerCrashedError, match="failed to load model") as raised:
        embedded(path).start()
    assert raised.value.exit_code == 1


def test_restart_works_after_kill_while_streaming(caplog):
    with embedded() as server:
        url, pid = server.url, server.pid
        body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as stream:
            stream.readline()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                stream.read()
        wait_for(lambda: caplog.records)
        assert is_gone(pid)
        assert server.restart().url == url
        assert chat(url)["usage"]["completion_tokens"] == 4
    assert "terminated by SIGKILL" in caplog.text


def test_stop_ends_server_while_streaming():
    with embedded() as server:
        body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as stream:
            stream.readline()
            pid = server.pid
            server.stop()
            assert is_gone(pid)


def test_embedded_server_applies_options_without_flags():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}[tuned]"
    with embedded(
        n_batch=64,
        n_ubatch=32,
        flash_attn=True,
        tensor_split=[1],
        split_mode="none",
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        mmap=False,
        chat_template=template,
        draft_model=find_demo_model(),
        alias="tuned",
    ) as server:
        response = chat(server.url, max_tokens=12)
        assert response["model"] == "tuned"
        assert response["timings"]["draft_n"] > 0
        log = "\n".join(server.logs())
        with urllib.request.urlopen(f"{server.url}/props") as props:
            assert json.load(props)["chat_template"] == template
    for pattern in (
        r"load_mode = none",
        r"n_batch +(= |is )?64",
        r"n_ubatch += 32",
        r"K \(q8_0\).*V \(q8_0\)",
        r"flash_attn += enabled",
    ):
        assert re.search(pattern, log), pattern


def test_embedded_server_rejects_unsupported_options():
    for fields in ({"extra_args": ["--no-warmup"]}, {"model": find_demo_model().parent}):
        with pytest.raises(UnsupportedOptionError, match="Use a llama-server program"):
            embedded(**fields).start()


def test_real_parser_accepts_every_flag(real_cli: Path):
    # Set each field: a flag that the parser does not know ends the server.
    config = ServerConfig(
        find_demo_model(),
        **SMALL,
        n_batch=64,
        n_ubatch=32,
        flash_attn=True,
        tensor_split=[3, 1],
        split_mode="none",
        main_gpu=0,
        n_parallel=2,
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        mlock=False,
        mmap=False,
        embeddings=True,
        alias="spelled",
        api_key="sk-right",
        chat_template="chatml",
        draft_model=find_demo_model(),
        extra_args=["--no-ui"],
    )
    with ServerManager(config, binary=real_cli) as server:
        response = chat(server.url, max_tokens=12, Authorization="Bearer sk-right")
        assert response["model"] == "spelled"
        assert response["timings"]["draft_n"] > 0
        log = "\n".join(server.logs())
    assert re.search(r"CPU +model buffer size", log), log


def test_real_parser_rejects_unknown_flag(real_cli: Path):
    config = ServerConfig(find_demo_model(), **SMALL, extra_args=["--mlock"])
    with pytest.raises(ServerCrashedError, match="error: invalid argument: --mlock"):
        ServerManager(config, binary=real_cli).start()
