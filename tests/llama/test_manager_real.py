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
from tests.llama.test_embedded import chat, is_gone, post
from tests.llama.test_manager import wait_until
from tests.recorder import Recorder

pytestmark = pytest.mark.needs("xllamacpp", "ps")
SMALL = {"port": 0, "n_ctx": 512, "threads": 1}


def embedded(model: Path | None = None, **fields) -> ServerManager:
    return ServerManager(
        ServerConfig(model or find_demo_model(), **{**SMALL, **fields}), binary="embedded"
    )


def test_answers_embeds_and_names_its_model_without_its_path():
    with embedded(embeddings=True, n_parallel=2) as server:
        answer = chat(server.url)
        assert answer["model"] == "SmolLM2-135M-Instruct.Q4_1"
        assert answer["usage"]["completion_tokens"] == 4
        vectors = post(f"{server.url}/v1/embeddings", {"input": ["sun", "moon"]})["data"]
        assert len(vectors) == 2
        with urllib.request.urlopen(f"{server.url}/props") as props:
            assert json.load(props)["total_slots"] == 2
        with urllib.request.urlopen(f"{server.url}/metrics") as metrics:
            assert b"llamacpp:tokens_predicted_total" in metrics.read()


def test_calls_to_it_say_what_it_is(recorder: Recorder):
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


def test_a_wrong_key_is_refused_and_the_right_one_is_not():
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


def test_a_file_that_only_begins_like_a_model_is_an_error_with_the_reason(tmp_path: Path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF and nothing else")
    with pytest.raises(ServerCrashedError, match="failed to load model") as raised:
        embedded(path).start()
    assert raised.value.exit_code == 1


def test_killed_in_the_middle_of_an_answer_it_can_be_restarted(caplog):
    with embedded() as server:
        url, pid = server.url, server.pid
        body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as stream:
            stream.readline()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                stream.read()
        wait_until(lambda: caplog.records)
        assert is_gone(pid)
        assert server.restart().url == url
        assert chat(url)["usage"]["completion_tokens"] == 4
    assert "ended by SIGKILL" in caplog.text


def test_stopped_in_the_middle_of_an_answer_it_is_gone():
    with embedded() as server:
        body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as stream:
            stream.readline()
            pid = server.pid
            server.stop()
            assert is_gone(pid)


def test_the_embedded_server_takes_what_the_flags_would_say():
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
        answer = chat(server.url, max_tokens=12)
        assert answer["model"] == "tuned"
        assert answer["timings"]["draft_n"] > 0
        log = "\n".join(server.logs())
        with urllib.request.urlopen(f"{server.url}/props") as props:
            assert json.load(props)["chat_template"] == template
    for said in (
        r"load_mode = none",
        r"n_batch +(= |is )?64",
        r"n_ubatch += 32",
        r"K \(q8_0\).*V \(q8_0\)",
        r"flash_attn += enabled",
    ):
        assert re.search(said, log), said


def test_the_embedded_server_refuses_what_it_cannot_be_told():
    for fields in ({"extra_args": ["--no-warmup"]}, {"model": find_demo_model().parent}):
        with pytest.raises(UnsupportedOptionError, match="needs a llama-server program"):
            embedded(**fields).start()


def test_the_real_parser_takes_every_flag(real_cli: Path):
    """Each field is given, so a spelling that no build has would end the server at once."""
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
        answer = chat(server.url, max_tokens=12, Authorization="Bearer sk-right")
        assert answer["model"] == "spelled"
        assert answer["timings"]["draft_n"] > 0
        log = "\n".join(server.logs())
    assert re.search(r"CPU +model buffer size", log), log


def test_the_real_parser_says_what_it_does_not_know(real_cli: Path):
    config = ServerConfig(find_demo_model(), **SMALL, extra_args=["--mlock"])
    with pytest.raises(ServerCrashedError, match="error: invalid argument: --mlock"):
        ServerManager(config, binary=real_cli).start()
