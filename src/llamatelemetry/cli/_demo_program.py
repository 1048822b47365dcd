"""Runs the demo's program, a plain OpenAI client, under ``opentelemetry-instrument``."""

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

# What `opentelemetry-instrument` itself does. The script is not called by its path: the
# interpreter line of a script breaks when the environment's path has a blank in it.
_INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
_PROGRAM = Path("examples", "openai_chat.py")


@dataclass(frozen=True, slots=True)
class Target:
    """The server that the program talks to: the demo's own, or one that the user named."""

    base_url: str
    is_ours: bool
    model: str | None = None


def find_program() -> Path:
    """The example of the repository, or the copy of it that a wheel carries."""
    package = Path(llamatelemetry.__file__).parent
    for folder in (package, package.parent.parent):
        if (folder / _PROGRAM).is_file():
            return folder / _PROGRAM
    raise FileNotFoundError(f"{_PROGRAM} is neither in the repository nor in {package}")


def program_environment(
    target: Target, export_path: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the program: the user's, with telemetry set up for the demo alone.

    A sampler or an exporter that the user has set for other programs would spoil the demo.
    """
    wanted = {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_SERVICE_NAME": "llamatelemetry-demo",
        "LLAMATELEMETRY_EXPORTER": "file",
        "LLAMATELEMETRY_EXPORT_PATH": str(export_path),
        "OPENAI_BASE_URL": target.base_url,
        "PYTHONUNBUFFERED": "1",  # its answers appear when they arrive
    }
    if target.model is not None:
        wanted["OPENAI_MODEL"] = target.model
    if target.is_ours:
        # The user's key and proxy are for somebody else's server.
        wanted |= {"OPENAI_API_KEY": "not-needed", "NO_PROXY": "*", "no_proxy": "*"}
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_"))
    }
    return {"OPENAI_API_KEY": "not-needed", **kept, **wanted}  # the client insists on a key


def run_program(
    target: Target, export_path: Path, on_line: Callable[[str], None]
) -> tuple[int, int]:
    """Run it to its end, handing on each line it prints; return its exit status and its pid.

    The pid is in the names of the files that it writes.
    """
    command = [sys.executable, "-c", _INSTRUMENT, sys.executable, str(find_program())]
    environment = program_environment(target, export_path, os.environ)
    with _running(command, environment, export_path) as process:
        for line in process.stdout or ():
            on_line(line.rstrip("\n"))
    return process.returncode, process.pid


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: Path
) -> Generator[subprocess.Popen[str]]:
    """The process; at the end of the block it is over, whatever ended the block."""
    with subprocess.Popen(
        command,
        env=environment,
        # opentelemetry-instrument puts the current directory on the program's path; a module
        # that happens to lie in the user's must not shadow a library.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # so that Ctrl-C prints no traceback of its own
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
