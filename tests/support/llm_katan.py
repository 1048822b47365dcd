"""llm-katan in a child process: a server with the protocols of OpenAI and Azure."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.children import with_signals

REQUIREMENT = "llm-katan == 0.22.0"
TIME_TO_FIRST_TOKEN_S = 0.03
BETWEEN_CHUNKS_S = 0.005

# llm-katan needs a web framework that the tests do not install otherwise. It therefore gets a
# virtual environment of its own, which is kept until the requirement changes.
_NAME = hashlib.sha256(REQUIREMENT.encode()).hexdigest()[:8]
_ENVIRONMENT = Path(__file__).parents[2] / "build" / f"llm-katan-{_NAME}"


class Katan:
    """A running server with the echo backend, which returns the prompt."""

    model = "echo-1"

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.url = f"{origin}/v1"

    def counted(self) -> dict[str, int]:
        """Return the counters in `/metrics`: requests, prompt tokens and completion tokens."""
        with urllib.request.urlopen(f"{self.origin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = (line.partition("{") for line in lines if line.startswith("llm_katan_"))
        return {
            name.removeprefix("llm_katan_"): int(rest.split()[-1])
            for name, _, rest in found
            if name.endswith(("requests_total", "tokens_total")) and "lifetime" not in name
        }


@contextmanager
def katan_server() -> Iterator[Katan]:
    """Install the server if necessary, and run it inside the `with` block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": Katan.model,
        "backend": "echo",
        "providers": "openai,azure_openai",
        "host": "127.0.0.1",
        "port": port,
        "max-concurrent": 8,
        "ttft-ms": round(TIME_TO_FIRST_TOKEN_S * 1000),
        "itl-ms": round(BETWEEN_CHUNKS_S * 1000),
        "log-level": "ERROR",
    }
    command = [_installed(), *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(
        with_signals(command),
        cwd=_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = Katan(f"http://127.0.0.1:{port}")
        _wait_until_healthy(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _installed() -> Path:
    program = _ENVIRONMENT / "bin" / "llm-katan"
    if not program.exists():
        venv.create(_ENVIRONMENT, with_pip=True, symlinks=True, clear=True)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pip = [_ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", REQUIREMENT]
        done = subprocess.run(pip, env=clean, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            raise RuntimeError(f"{REQUIREMENT} cannot be installed: {last}")
    return program


def _wait_until_healthy(server: Katan, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.origin}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"llm-katan did not start (exit status {process.poll()})")
