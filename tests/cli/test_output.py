"""Commands whose output cannot be written, or that are interrupted: one line, no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import with_signals

CLI = [sys.executable, "-m", "llamatelemetry.cli"]
RECORDED = '{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"work"}]}]}]}\n'


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("topology",), ("topology", "--json"), ("report", "calls.jsonl")],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("target", "status", "printed"),
    [
        ("closed", 0, []),
        ("pipe without reader", 1, []),
        ("full disk", 1, ["error: [Errno 28] No space left on device"]),
    ],
)
def test_command_prints_no_traceback_when_output_cannot_be_written(
    tmp_path: Path, arguments: tuple[str, ...], target: str, status: int, printed: list[str]
) -> None:
    (tmp_path / "calls.jsonl").write_text(RECORDED)
    command = [*CLI, *arguments]
    if target == "full disk" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    if target == "closed":
        command, stdout = ["sh", "-c", '"$@" >&-', "sh", *command], None
    elif target == "full disk":
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=100
        )
    finally:
        if stdout is not None:
            os.close(stdout)
    assert (done.returncode, done.stderr.splitlines()) == (status, printed)


@pytest.mark.parametrize("columns", ["0", "1"])
def test_paths_are_printed_whatever_the_width_of_the_terminal(tmp_path: Path, columns: str) -> None:
    (tmp_path / "calls.jsonl").write_text(RECORDED)
    command, environment = [*CLI, "report", "calls.jsonl"], {**os.environ, "COLUMNS": columns}
    printed = subprocess.check_output(
        command, cwd=tmp_path, env=environment, text=True, timeout=100
    )
    assert printed == "calls.html\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "--url", "{url}"),
        pytest.param(("doctor", "--server", "{url}"), marks=pytest.mark.slow),
        ("demo", "--base-url", "{url}"),
    ],
    ids=lambda each: each[0],
)
def test_interrupted_command_exits_with_130_and_at_most_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            with_signals([*CLI, *(each.replace("{url}", url) for each in arguments)]),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LLAMATELEMETRY_EXPORTER": "none"},
        )
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=100)
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) <= 1, stderr
