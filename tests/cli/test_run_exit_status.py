"""`llamatelemetry run` exits with the command's status, whatever happens to its telemetry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.children import with_signals
from tests.support.run_commands import RUN, SPAN, run
from tests.support.waiting import wait_for

FLUSH = "trace.get_tracer_provider().force_flush()\n"


def program(after: str) -> str:
    """Return a program that exports a span, does something to the database, and exits with 7."""
    return SPAN + FLUSH + textwrap.dedent(after) + "import os\nos._exit(7)\n"


DAMAGE = """
import sqlite3
connection = sqlite3.connect("calls.db", timeout=30)
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
connection.close()
with open("calls.db", "r+b") as file:
    file.seek({offset})
    file.write(b"x" * 100_000)
"""


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (
            "import pathlib\nfor path in pathlib.Path().glob('calls.db*'): path.unlink()\n",
            "The recorded telemetry is lost: no such file",
        ),
        (
            "import pathlib; pathlib.Path('calls.db').unlink(); pathlib.Path('calls.db').mkdir()\n",
            "Cannot read the recorded telemetry: cannot open calls.db",
        ),
        (DAMAGE.format(offset=4096), "The recorded telemetry is lost: calls.db is damaged"),
        (DAMAGE.format(offset=0), "calls.db is not an SQLite file"),
        (
            "import pathlib; pathlib.Path('calls.html').mkdir()\n",
            "Cannot write the report: [Errno 21] Is a directory",
        ),
    ],
    ids=["deleted", "replaced", "damaged rows", "damaged header", "report not writable"],
)
def test_run_keeps_exit_status_when_telemetry_cannot_be_read(
    tmp_path: Path, after: str, error: str
) -> None:
    done = run("--output", "calls.db", "--", sys.executable, "-c", program(after), cwd=tmp_path)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if error in line], done.stderr


def test_run_keeps_exit_status_when_default_directory_is_deleted(tmp_path: Path) -> None:
    done = run("--", "sh", "-c", "rm -r llamatelemetry-data; exit 7", cwd=tmp_path)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--live",)], ids=["plain", "live"])
@pytest.mark.parametrize("target", ["pipe without reader", "full disk"])
def test_run_keeps_exit_status_when_standard_error_cannot_be_written(
    tmp_path: Path, options: tuple[str, ...], target: str
) -> None:
    if target == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(
            with_signals([*RUN, *options, "--output", "calls.db", "--", "sh", "-c", "exit 7"]),
            cwd=tmp_path,
            stderr=stderr,
            timeout=100,
        )
    finally:
        os.close(stderr)
    assert done.returncode == 7


def test_run_keeps_exit_status_when_interrupted_after_the_command(tmp_path: Path) -> None:
    # The command leaves a child that goes on exporting, so that `run` waits for more telemetry.
    child = (
        "from opentelemetry import trace\nimport os, pathlib, time\n"
        "parent = os.getppid()\n"
        "pathlib.Path('started').touch()\n"
        "while os.getppid() == parent:\n    time.sleep(0.05)\n"
        "pathlib.Path('exited').touch()\n"
        "for _ in range(40):\n"
        "    trace.get_tracer('child').start_span('late').end()\n"
        "    time.sleep(0.05)\n"
    )
    start = f'{sys.executable} -c "$0" 2>/dev/null &'
    command = f"{start} until [ -e started ]; do sleep 0.1; done; exit 7"
    process = subprocess.Popen(
        with_signals([*RUN, "--output", "calls.db", "--", "sh", "-c", command, child]),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    wait_for((tmp_path / "exited").exists, 60)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 7
    assert "Traceback" not in stderr


def test_live_page_reports_damaged_database_and_prints_nothing(tmp_path: Path) -> None:
    code = program(
        DAMAGE.format(offset=4096)
        + "import time, pathlib\n"
        + "for _ in range(600):\n"
        + "    if pathlib.Path('asked').exists(): break\n"
        + "    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        with_signals([*RUN, "--live", "--output", "calls.db", "--", sys.executable, "-c", code]),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    url = first.partition("Live report: ")[2].strip()

    def is_damaged() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                response.read()
        except urllib.error.HTTPError as error:
            return error.code == 500 and b"calls.db is damaged" in error.read()
        return False

    wait_for(is_damaged, 60)
    (tmp_path / "asked").touch()
    rest = process.communicate(timeout=100)[1]
    assert process.returncode == 7
    assert "Traceback" not in rest
