"""The vLLM server of `llamatelemetry demo --engine vllm`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamatelemetry.cli._demo_program import DemoError, DemoServer
from llamatelemetry.gpu import detect_cuda
from llamatelemetry.llama.server.address import Address, free_port, get_json
from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.llama.server.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_TINY_MODEL: Final = Path(__file__).with_name("_tiny_model.py")
_TINY_NAME: Final = "random-weights"
# With two sequences at once, two of the program's four concurrent calls are queued.
_FLAGS: Final = (
    *("--host", "127.0.0.1", "--max-num-seqs", "2", "--enforce-eager"),
    *("--enable-per-request-metrics", "--enable-prompt-tokens-details"),
)
# A server may download a large model when it starts.
_READY_S: Final = 1800.0
_PAUSE_S: Final = 0.2
_STOP_S: Final = 15.0
_LOG_LINES: Final = 15


@contextmanager
def vllm_server(
    command: str | None, model: str | None, on_progress: Callable[[str], None]
) -> Generator[DemoServer]:
    """Run a vLLM server until the end of the block.

    Args:
        command: Path of the command `vllm`; the one of this environment or on `PATH` if `None`.
        model: Name or directory of a model. `None` creates a tiny one with random weights.
        on_progress: Called with a line about each step of the server.

    Raises:
        DemoError: vLLM is not installed, or did not start.
    """
    vllm = _find_command(command)
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-demo-") as folder:
        if model is None:
            on_progress("creating a tiny model with random weights")
            _create_tiny_model(vllm, folder)
        address = Address("127.0.0.1", free_port("127.0.0.1"))
        name = model or _TINY_NAME
        flags = [*_FLAGS, "--port", str(address.port), "--served-model-name", name]
        environment = _environment()
        if not detect_cuda().available:
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
            if model is None:
                flags += ["--dtype", "float32"]
        if model is None:
            environment["HF_HUB_OFFLINE"] = "1"
        log = ServerLog()
        log.on_line = on_progress
        process = ServerProcess([str(vllm), "serve", model or folder, *flags], environment, log)
        try:
            _wait_until_ready(process, address)
            log.on_line = None
            yield DemoServer(
                f"{address.url}/v1",
                is_own=True,
                model=name,
                has_all_routes=False,  # a model for generation has no embeddings
                stream_usage=True,
            )
            if process.has_ended:
                raise DemoError(_end_of(process))
        finally:
            log.on_line = None
            process.end(_STOP_S)


def _find_command(command: str | None) -> Path:
    beside_python = str(Path(sys.executable).with_name("vllm"))
    candidates = [command] if command else [beside_python, "vllm"]
    for candidate in candidates:
        if (found := shutil.which(candidate)) is not None:
            return Path(found).absolute()
    if command:
        raise DemoError(f"--vllm must be the path of the command vllm, got {command}")
    raise DemoError(
        "The demo with vLLM needs the command vllm. Install it: pip install vllm"
        " (or name the one of another environment: --vllm PATH)"
    )


def _create_tiny_model(vllm: Path, directory: str) -> None:
    """Create the model with the Transformers of vLLM's environment."""
    beside_vllm = vllm.with_name("python")
    python = beside_vllm if beside_vllm.exists() else Path(sys.executable)
    done = subprocess.run(
        [python, "-I", _TINY_MODEL, directory],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise DemoError(
            f"Cannot create a model with {python}: {last}. Name a model with --model, or install"
            " Transformers there: pip install torch transformers"
        )


def _environment() -> dict[str, str]:
    """Return the user's environment without telemetry settings, and without an API key for vLLM."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_")) and name != "VLLM_API_KEY"
    }
    return {**kept, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _wait_until_ready(process: ServerProcess, address: Address) -> None:
    deadline = time.monotonic() + _READY_S
    while not process.wait(_PAUSE_S):
        status, _ = get_json(address, "/health", 5.0)
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"vLLM was not ready within {_READY_S:.0f} s")
    raise DemoError(_end_of(process, " before it was ready"))


def _end_of(process: ServerProcess, when: str = "") -> str:
    log = "\n".join(process.log.lines(_LOG_LINES))
    return f"vLLM {process.describe_end()}{when}; its last log lines:\n{log}"
