"""`llamatelemetry demo --engine vllm`, with programs in the place of vLLM that fail or never start.

tests/engines runs it with a real vLLM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import with_signals
from tests.support.waiting import wait_for

DEMO = [sys.executable, "-m", "llamatelemetry.cli", "demo"]


def run_demo(*arguments: str | Path, path: str | Path = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "COLUMNS": "140", "PATH": str(path)},
    )


def write_command(folder: Path, name: str, code: str) -> Path:
    """Write a command that runs Python code."""
    folder.mkdir(exist_ok=True)
    command = folder / name
    command.write_text(f"#!{sys.executable}\n{code}\n")
    command.chmod(0o755)
    return command


def test_missing_vllm_is_an_error_with_the_install_command(tmp_path: Path) -> None:
    done = run_demo("--engine", "vllm", "--output", tmp_path / "new", path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: The demo with vLLM needs the command vllm. Install it: pip install vllm"
        " (or name the one of another environment: --vllm PATH)\n"
    )
    assert not (tmp_path / "new").exists()


def test_vllm_that_is_not_a_command_is_an_error(tmp_path: Path) -> None:
    done = run_demo("--engine", "vllm", "--vllm", tmp_path, "--output", tmp_path / "new")
    assert done.returncode == 1
    assert f"error: --vllm must be the path of the command vllm, got {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "vllm", "--base-url", "http://127.0.0.1:9"), "cannot be combined"),
        (("--vllm", "vllm"), "--vllm needs --engine vllm"),
        (("--model", "no-such.gguf"), "--model must be a GGUF file, got no-such.gguf"),
        (("--engine", "other"), "llama.cpp"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    done = run_demo(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_log_of_vllm_is_shown_when_it_does_not_start(tmp_path: Path) -> None:
    vllm = write_command(tmp_path / "bin", "vllm", "print('no such device'); raise SystemExit(3)")
    output = tmp_path / "new"
    # The command is found on PATH.
    done = run_demo("--engine", "vllm", "--model", "m", "--output", output, path=vllm.parent)
    assert done.returncode == 1
    assert done.stderr == (
        "error: vLLM exited with status 3 before it was ready; its last log lines:\n"
        "no such device\n"
    )
    assert not output.exists()


def test_missing_transformers_is_an_error_that_names_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    vllm = write_command(folder, "vllm", "")
    python = write_command(
        folder, "python", "raise SystemExit('ModuleNotFoundError: No module named torch')"
    )
    done = run_demo("--engine", "vllm", "--vllm", vllm, "--output", tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: Cannot create a model with {python}: ModuleNotFoundError: No module named torch."
    )
    assert "--model" in done.stderr


# Starts a child process, as vLLM does, and never becomes ready. The child ignores SIGTERM.
NEVER_READY = """
import os, signal, subprocess, sys, time
child = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN);"
         " print('ready', flush=True); time.sleep(300)"]
process = subprocess.Popen(child, stdout=subprocess.PIPE)
process.stdout.readline()
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {process.pid} ")
time.sleep(300)
"""


@pytest.mark.needs("ps")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_signal_ends_vllm_and_its_child_processes(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    vllm = write_command(tmp_path / "bin", "vllm", NEVER_READY)
    pids_file = tmp_path / "pids"
    arguments = ["--engine", "vllm", "--vllm", vllm, "--model", "m", "--output", tmp_path / "new"]
    process = subprocess.Popen(
        with_signals([*DEMO, *map(str, arguments)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PIDS": str(pids_file)},
    )

    def pids() -> list[str]:
        return pids_file.read_text().split() if pids_file.exists() else []

    def remaining() -> list[str]:
        listed = subprocess.run(
            ["ps", "-o", "pid=,stat=", "-p", ",".join(pids())], capture_output=True, text=True
        ).stdout.splitlines()
        return [line for line in listed if line.split()[1][0] != "Z"]

    try:
        wait_for(lambda: len(pids()) == 2, timeout_s=60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in output
    wait_for(lambda: remaining() == [], timeout_s=30)
    if number is signal.SIGINT:
        assert output.endswith("Interrupted. All processes have ended.\n")
        assert not (tmp_path / "new").exists()
