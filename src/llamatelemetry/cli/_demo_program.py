"""Run the demo's program, a plain OpenAI client, under `opentelemetry-instrument`."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import llamatelemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

# The body of the script `opentelemetry-instrument`. The script itself is not run, because its
# interpreter line fails if the path of the environment contains a space.
_INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
_PROGRAM = Path("examples", "openai_chat.py")


class DemoError(Exception):
    """The demo cannot run; the message is shown to the user."""


@dataclass(frozen=True, slots=True)
class DemoServer:
    """The server that the program calls. The path of its URL is `/v1`."""

    base_url: str
    is_own: bool  # whether the demo started it
    model: str | None = None  # the first one that the server lists if `None`
    has_all_routes: bool = True  # whether it has every route that the program calls
    stream_usage: bool = False  # whether it reports on streams only together with the usage


def find_program() -> Path:
    """Return the path of the example in the repository, or of its copy in the wheel."""
    package = Path(llamatelemetry.__file__).parent
    for folder in (package, package.parent.parent):
        if (folder / _PROGRAM).is_file():
            return folder / _PROGRAM
    raise FileNotFoundError(f"{_PROGRAM} not found in the repository or in {package}")


def program_environment(
    server: DemoServer, export_path: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the user's environment with the telemetry variables of the demo.

    The user's own telemetry variables are removed: a sampler or an exporter would change what the
    demo shows.
    """
    wanted = {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "llamatelemetry-demo",
        "LLAMATELEMETRY_EXPORTER": "file",
        "LLAMATELEMETRY_EXPORT_PATH": str(export_path),
        "LLAMATELEMETRY_DIAGNOSTICS": "true",  # for `llamatelemetry why`
        "OPENAI_BASE_URL": server.base_url,
        "PYTHONUNBUFFERED": "1",  # shows each line at once
    }
    if server.stream_usage:
        wanted["LLAMATELEMETRY_STREAM_USAGE"] = "true"
    if server.model is not None:
        wanted["OPENAI_MODEL"] = server.model
    if server.is_own:
        # The user's key and proxy belong to another server.
        wanted |= {"OPENAI_API_KEY": "not-needed", "NO_PROXY": "*", "no_proxy": "*"}
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_"))
    }
    return {"OPENAI_API_KEY": "not-needed", **kept, **wanted}  # the client requires a key


def run_program(
    server: DemoServer, export_path: Path, on_line: Callable[[str], None]
) -> tuple[int, int]:
    """Run the program, call `on_line` with each line that it prints, and return status and pid.

    The names of the files in `export_path` contain the process ID.
    """
    command = [sys.executable, "-c", _INSTRUMENT, sys.executable, str(find_program())]
    environment = program_environment(server, export_path, os.environ)
    with _running(command, environment, export_path) as process:
        for line in process.stdout or ():
            on_line(line.rstrip("\n"))
    return process.returncode, process.pid


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: Path
) -> Generator[subprocess.Popen[str]]:
    """Start the process, and kill it if the block fails."""
    with subprocess.Popen(
        command,
        env=environment,
        # opentelemetry-instrument adds the current directory to the path of the program. A module
        # in the user's directory must not shadow a library.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C must not reach it: it would print a traceback
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
