"""A real vLLM on the CPU, from the environment that `scripts/install-vllm` creates."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import wait_for

HOME = Path(__file__).parents[2] / "build" / "engines" / "vllm"
MODEL = "tiny"
_SAMPLE = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class VllmServer:
    """A running server."""

    origin: str

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.origin}/v1"

    def metrics(self) -> Counter[str]:
        """Return the samples of `/metrics` by name, summed over their labels."""
        with urllib.request.urlopen(f"{self.origin}/metrics", timeout=30) as response:
            text = response.read().decode()
        found: Counter[str] = Counter()
        for name, value in _SAMPLE.findall(text):
            found[name] += float(value)
        return found


@contextmanager
def vllm_server(
    *flags: str, traces_url: str | None = None, port: int | None = None
) -> Iterator[VllmServer]:
    """Run a server.

    Args:
        flags: Further flags of `vllm serve`.
        traces_url: URL that it sends its own spans to, over HTTP.
        port: Port to listen on; a free one if `None`.
    """
    if port is None:
        port = free_port()
    command = [
        *(HOME / "bin" / "vllm", "serve", HOME / MODEL, "--served-model-name", MODEL),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512"),
        *("--enforce-eager", "--dtype", "float32", *flags),
    ]
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("OTEL_")},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if traces_url is not None:
        command += ["--otlp-traces-endpoint", traces_url]
        environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    with tempfile.TemporaryFile() as log:
        # It starts child processes, so it gets a process group of its own.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = VllmServer(f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace")[-4000:])
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{server.origin}/health", timeout=5).close()
                return True
            return False

        try:
            wait_for(is_ready, timeout_s=300)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
