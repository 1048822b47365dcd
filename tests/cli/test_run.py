"""`llamatelemetry run`: exit status, signals, workers, summary and report."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
import venv
from pathlib import Path

import pytest
import requests

from llamatelemetry.local.launch import is_process_left, telemetry_environment
from llamatelemetry.local.store import StoreReader
from tests.support.children import with_signals
from tests.support.llama_server import LlamaServer
from tests.support.run_commands import RUN, SPAN, run
from tests.support.waiting import wait_for


def names_in(folder: Path) -> list[str]:
    [path] = (folder / "llamatelemetry-data").glob("run-*.db")
    with StoreReader(path) as reader:
        return [span.name for span in reader.spans()]


def test_run_records_all_calls_of_an_unmodified_program(
    tmp_path: Path, llama_server: LlamaServer
) -> None:
    program = """
        import openai
        client = openai.OpenAI()
        for _ in range(2):
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Say hi."}], max_tokens=4
            )
        print("its own output")
    """
    done = run(
        *("--", sys.executable, "-c", textwrap.dedent(program)),
        cwd=tmp_path,
        OPENAI_BASE_URL=llama_server.url,
        OPENAI_API_KEY="none",
    )
    assert done.returncode == 0
    assert done.stdout == "its own output\n"
    line = next(line.split() for line in done.stderr.splitlines() if line.startswith("chat"))
    assert line[2:4] == ["2", "0"]
    assert names_in(tmp_path).count("decode") == 2
    assert "Saved to llamatelemetry-data/run-" in done.stderr


def test_run_records_spans_of_worker_processes(tmp_path: Path) -> None:
    program = f"""
        import multiprocessing, subprocess, sys, os
        code = {SPAN!r}
        def work():
            exec(code)
            from opentelemetry import trace
            trace.get_tracer_provider().force_flush()
        if __name__ == "__main__":
            forked = multiprocessing.get_context("fork").Process(target=work)
            forked.start()
            forked.join()
            subprocess.run([sys.executable, "-c", code], check=True)
            exec(code)
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = run("--", sys.executable, "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path) == ["by the program"] * 3
    assert "No LLM call recorded; received 3 other spans." in done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 3"), 3),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("nonesuch-command",), 127),
        (("/",), 126),
    ],
)
def test_run_exits_with_status_of_the_command(
    tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    # An unreadable directory in PATH must not change the status. Root can read every directory.
    (tmp_path / "closed").mkdir(mode=0)
    path = f"{os.environ['PATH']}{os.pathsep}{tmp_path / 'closed'}"
    done = run("--", *command, cwd=tmp_path, PATH=path)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    # No telemetry was received, so neither a database nor a report is left.
    assert not list(tmp_path.glob("llamatelemetry-data/*"))


def test_run_passes_options_to_the_command(tmp_path: Path) -> None:
    done = run("sh", "-c", 'echo "$0 $@"', "--port", "--help", cwd=tmp_path)
    assert done.stdout == "--port --help\n"


def test_command_reads_open_files_of_the_shell_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("text of the shell\n")
    show = "import os, sys; print(os.read(3, 99).decode(), os.path.lexists('/dev/fd/4'))"
    command = [sys.executable, "-I", "-S", "-c", show]
    opened = ["sh", "-c", '"$@" 3<given 4<&- 5<&-', "sh"]
    plain, done = (
        subprocess.run(
            [*opened, *each, *command], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        for each in ([], [*RUN, "--output", "run.db", "--"])
    )
    assert done.stdout == plain.stdout == "text of the shell\n False\n"


@pytest.mark.skipif(os.fsencode("\udcff") != b"\xff", reason="arguments have another encoding")
def test_argument_that_is_not_utf8_reaches_the_command_and_is_stored(tmp_path: Path) -> None:
    show = "import os, sys; print(os.fsencode(sys.argv[1])); sys.exit(3)"
    command = [sys.executable, "-c", show, "name\udce9"]
    done = run("--output", "run.db", "--", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "b'name\\xe9'\n")
    assert "Traceback" not in done.stderr
    with StoreReader(tmp_path / "run.db") as reader:
        [recorded] = reader.runs()
    assert (recorded.command[-1], recorded.exit_status) == ("name\N{REPLACEMENT CHARACTER}", 3)


def test_run_without_a_command_exits_with_2(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2


def test_run_rejects_output_file_that_is_not_a_database_before_running(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine" * 100)
    done = run("--output", "text", "--", "sh", "-c", "echo ran", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not an SQLite file" in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "text").read_text() == "mine" * 100


def test_run_keeps_a_database_with_the_name_of_a_page(tmp_path: Path) -> None:
    done = run("--output", "run.html", "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    with StoreReader(tmp_path / "run.html") as reader:
        assert [each.exit_status for each in reader.runs()] == [0]
    assert "Report: run.html.html" in done.stderr


def test_run_names_the_install_command_when_grpc_is_missing_before_running(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *path: None if name == 'grpc' else find(name, *path)\n"
    )
    command = ("--grpc-port", "4317", "--", "sh", "-c", "echo ran")
    done = run(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Receiving OTLP over gRPC needs grpc. Install it: pip install" in done.stderr
    assert not (tmp_path / "llamatelemetry-data").exists()


def test_run_names_taken_port_before_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port), "--", "sh", "-c", "echo ran", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot receive telemetry on port {port}: Address already in use" in done.stderr
    assert "Use another port, or 0 for a free one" in done.stderr
    assert list((tmp_path / "llamatelemetry-data").iterdir()) == []


def test_run_records_over_http_when_port_for_grpc_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = ("--", sys.executable, "-c", SPAN)
        done = run("--grpc-port", str(port), *program, cwd=tmp_path)
    assert done.returncode == 0
    assert f"cannot serve gRPC on port {port}" in done.stderr
    assert names_in(tmp_path) == ["by the program"]


LISTENING = f"""
import os, signal, sys, time
{SPAN}
def on(number, frame):
    os.write(1, b"got %d\\n" % number)  # print() is not reentrant
    if number == signal.SIGTERM:
        sys.exit(5)
for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
    signal.signal(getattr(signal, name), on)
print("listening", flush=True)
while True:
    signal.pause()
"""


def test_run_forwards_signals_and_saves_pending_telemetry(tmp_path: Path) -> None:
    with subprocess.Popen(
        with_signals([*RUN, "--", sys.executable, "-c", LISTENING]),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            assert process.stdout.readline() == f"got {number:d}\n"
        assert process.wait(30) == 5
    assert names_in(tmp_path) == ["by the program"]


def test_ignored_sigint_stays_ignored_and_sigterm_ends_the_command(tmp_path: Path) -> None:
    """SIGINT is ignored under `nohup` and in background jobs of scripts. The command inherits it."""
    program = """
        import signal, time
        print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        with_signals(
            [*RUN, "--", sys.executable, "-c", textwrap.dedent(program)], ignored=[signal.SIGINT]
        ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # Time for the signal to end the command.
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_ctrl_c_in_a_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        command = with_signals([*RUN, "--", sys.executable, "-c", LISTENING])
        os.execvp(command[0], command)
    output = b""
    sent = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            output += os.read(terminal, 10_000)
        except OSError:
            break
        if b"listening" in output and sent == 0:
            os.write(terminal, b"\x03")
            sent = 1
        elif b"got 2" in output and sent == 1:
            time.sleep(0.5)  # time for an unwanted second signal
            os.kill(pid, signal.SIGTERM)
            sent = 2
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5, output.decode()
    os.close(terminal)
    assert output.count(b"got 2") == 1


@pytest.mark.slow
def test_live_report_shows_spans_while_the_command_runs(tmp_path: Path) -> None:
    with subprocess.Popen(
        with_signals([*RUN, "--live", "--", sys.executable, "-c", LISTENING]),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = ""
        while "Live report: " not in line:
            line = process.stderr.readline()
        url = line.split("Live report: ")[1].strip()
        assert process.stdout.readline() == "listening\n"
        found = 0
        deadline = time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            with urllib.request.urlopen(f"{url}data?after=0.0.0") as reply:
                found = len(json.load(reply)["columns"]["spans"]["id"])
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 5
    assert found == 1
    [page] = tmp_path.glob("llamatelemetry-data/run-*.html")
    assert f"Report: {page.relative_to(tmp_path)}" in rest


def test_telemetry_environment_overrides_export_settings_of_the_user() -> None:
    made = telemetry_environment(
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://elsewhere",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
            "LLAMATELEMETRY_EXPORTER": "console",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_SERVICE_NAME": "mine",
            "OTEL_METRIC_EXPORT_INTERVAL": "7",
            "OTEL_BLRP_SCHEDULE_DELAY": "5",
            "PYTHONPATH": "/mine",
            "NO_PROXY": "example.com",
        },
        "http://127.0.0.1:9",
    )
    assert made.pop("PYTHONPATH").endswith(f"startup{os.pathsep}/mine")
    assert made.pop("_LLAMATELEMETRY_RUN_PID") == str(os.getpid())
    assert len(bytes.fromhex(made.pop("_LLAMATELEMETRY_RUN_KEY"))) == 32
    assert made == {
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_METRIC_EXPORT_INTERVAL": "7",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BLRP_SCHEDULE_DELAY": "5",
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "LLAMATELEMETRY_DIAGNOSTICS": "true",
        "NO_PROXY": "example.com,127.0.0.1",
        "no_proxy": "example.com,127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
    }


@pytest.mark.parametrize("given", [None, "", ":", ":/mine", "/mine:", "/mine::/other"])
def test_program_imports_from_the_same_directories_as_without_run(
    tmp_path: Path, given: str | None
) -> None:
    program = tmp_path / "program" / "main.py"
    program.parent.mkdir()
    program.write_text("import sys; print([path for path in sys.path if 'startup' not in path])")
    environ = {**os.environ, **({} if given is None else {"PYTHONPATH": given})}

    def path_with(environment: dict[str, str]) -> str:
        command = [sys.executable, str(program)]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)

    assert path_with(telemetry_environment(environ, "http://127.0.0.1:9")) == path_with(environ)


@pytest.mark.parametrize(
    ("given", "upper", "lower"),
    [
        ({}, "127.0.0.1", "127.0.0.1"),
        ({"NO_PROXY": "a.test"}, "a.test,127.0.0.1", "a.test,127.0.0.1"),
        ({"no_proxy": "a.test"}, "a.test,127.0.0.1", "a.test,127.0.0.1"),
        ({"NO_PROXY": "a.test", "no_proxy": "b.test"}, "a.test,127.0.0.1", "b.test,127.0.0.1"),
        ({"NO_PROXY": "*"}, "*", "*"),
    ],
)
def test_telemetry_environment_keeps_proxy_exceptions_of_the_user(
    given: dict[str, str], upper: str, lower: str
) -> None:
    made = telemetry_environment(given, "http://127.0.0.1:9")
    assert (made["NO_PROXY"], made["no_proxy"]) == (upper, lower)


@pytest.mark.parametrize("exceptions", ["*", "a.test"])
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_http_library_of_command_bypasses_proxy_for_hosts_that_the_user_excludes(
    name: str, exceptions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = telemetry_environment({name: exceptions}, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, environment[variable])
    monkeypatch.setenv("http_proxy", "http://proxy.test")
    assert requests.utils.get_environ_proxies("http://a.test/v1") == {}
    assert requests.utils.get_environ_proxies("http://127.0.0.1:9/v1/traces") == {}


def test_run_says_in_one_line_that_another_interpreter_is_not_recorded(tmp_path: Path) -> None:
    venv.create(tmp_path / "other", with_pip=False)
    other = tmp_path / "other" / "bin" / "python"
    done = run("--", str(other), "-c", "print('ran')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    first, second = done.stderr.splitlines()
    assert first == (
        f"llamatelemetry run: nothing is recorded in {other}: No module named 'opentelemetry'. "
        f"Install llamatelemetry there: {other} -m pip install llamatelemetry"
    )
    assert second == (
        f"No telemetry received: the command used another interpreter, {other}, which cannot load "
        "llamatelemetry (No module named 'opentelemetry'). Install it there, or start the command "
        f"with {sys.executable}."
    )
    # The output of a nested interpreter may be read by another program.
    nested = f"import subprocess; subprocess.run([{str(other)!r}, '-c', 'print(1)'])"
    done = run("--no-report", "--", sys.executable, "-c", nested, cwd=tmp_path)
    assert (done.stdout, done.stderr.count("nothing is recorded")) == ("1\n", 0)


@pytest.mark.parametrize(("more", "error"), [("", ""), ("raise ValueError('mine')", "mine")])
def test_sitecustomize_of_the_user_runs_as_without_run(
    tmp_path: Path, more: str, error: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sitecustomize.py").write_text(f"import os\nname = 'mine'\n{more}\n")
    show = "import sys; print(getattr(sys.modules.get('sitecustomize'), 'name', None))"
    command = [sys.executable, "-c", f"{SPAN}\n{show}"]
    environment = {"PYTHONPATH": str(tmp_path / "mine")}
    plain = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True
    )
    done = run("--", *command, cwd=tmp_path, **environment)
    assert done.stdout == plain.stdout
    assert (error in done.stderr) == (error in plain.stderr)
    assert len(names_in(tmp_path)) == 1


def test_command_starts_before_the_import_of_all_that_it_does_not_need(tmp_path: Path) -> None:
    # A command that cannot be started ends `run` before it imports more.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *RUN[1:], "--", "no-such-command"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 127
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert {"llamatelemetry.cli.run", "sqlite3"} <= imported
    late = {
        *("typer", "rich", "pydantic", "google.protobuf", "http.server", "opentelemetry.trace"),
        # `logging` itself is imported, see `llamatelemetry._setup_in_progress`.
        *("logging.handlers", "asyncio", "ssl", "socketserver", "multiprocessing"),
    }
    assert not late & imported
    assert not {"llamatelemetry.config", "llamatelemetry.genai", "llamatelemetry.otel"} & imported


def test_processes_of_a_command_are_found_until_they_exit(tmp_path: Path) -> None:
    environment = telemetry_environment(os.environ, "http://127.0.0.1:1", tmp_path)
    # The shell exits, and its child stays.
    command = "sleep 100 >/dev/null 2>&1 & echo $!"
    started = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert is_process_left(tmp_path)
    os.kill(int(started.stdout), signal.SIGKILL)
    if Path("/proc").is_dir():
        wait_for(lambda: not is_process_left(tmp_path))
