"""The child process that runs the llama.cpp server of the xllamacpp wheel.

Run it with `python -m llamatelemetry.llama.embedded`. The server has a separate process because it
holds the interpreter lock while it loads the model, and because a crash in native code must not end
the application.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import MissingPackageError, required_by
from llamatelemetry.llama.embedded.options import parse_arguments
from llamatelemetry.llama.embedded.parameters import server_parameters
from llamatelemetry.llama.server.errors import XLLAMACPP_REQUIREMENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOG_DELAY_S = 0.1
_EXIT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _CannotServeError(Exception):
    """The server cannot be started. The message is shown to the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return 1 if the server cannot start.

    SIGINT stays ignored if it was ignored when the process started.
    """
    options = parse_arguments(arguments)
    announce_fd = _redirect_stdout()
    try:
        _check_model(options.model_path)
        xllamacpp = _import_xllamacpp()
        try:
            parameters = server_parameters(xllamacpp, options)
        except (OSError, ValueError) as error:
            raise _CannotServeError(str(error)) from error
        except AttributeError as error:
            # xllamacpp sometimes renames its parameters.
            raise _CannotServeError(
                f"this version of xllamacpp is not supported ({error}). "
                f"Install a supported one: pip install {XLLAMACPP_REQUIREMENT}"
            ) from error
        _use_default_signals_while_loading()
        server = _start(xllamacpp, parameters, options.model_path)
    except _CannotServeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the standard error of a program
        return 1
    ready = json.dumps({"url": server.listening_address, "pid": os.getpid()})
    _announce_and_wait(announce_fd, ready)
    # Skip the server's destructor: with a stream in flight it holds the interpreter lock and waits
    # forever for a handler (seen with 2026.10.11549). There is nothing to save anyway.
    sys.stderr.flush()
    os._exit(0)


def _redirect_stdout() -> int:
    """Redirect stdout to stderr, also for native code. Return a descriptor of the real stdout."""
    sys.stdout.flush()
    announce_fd = os.dup(1)
    os.dup2(2, 1)
    return announce_fd


def _check_model(path: Path) -> None:
    # llama.cpp reports all of these errors as "failed to load model".
    if not path.is_file():
        raise _CannotServeError(f"model file not found: {path}")
    try:
        with path.open("rb") as model:
            magic = model.read(4)
    except OSError as error:
        raise _CannotServeError(f"model file cannot be read: {error}") from error
    if magic != b"GGUF":
        raise _CannotServeError(f"not a GGUF model file: {path}")


def _import_xllamacpp() -> Any:
    try:
        with required_by("The embedded llama.cpp server", XLLAMACPP_REQUIREMENT):
            return importlib.import_module("xllamacpp")
    except MissingPackageError as error:
        raise _CannotServeError(str(error)) from error
    except Exception as error:
        # A native module may raise any exception.
        raise _CannotServeError(f"cannot import xllamacpp: {error}") from error


def _use_default_signals_while_loading() -> None:
    """Restore the default signal handlers while the model loads, when there is nothing to clean up.

    Python's own SIGINT handler would run only after the model is loaded.
    """
    # The thread that started this process may block these signals, and the mask is inherited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _EXIT_SIGNALS)
    if signal.SIGINT in _exit_signals():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(xllamacpp: Any, parameters: Any, model_path: Path) -> Any:
    try:
        # Returns once the model is loaded and the server listens.
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        # llama.cpp logs on a separate thread: wait, so that the error is the last line.
        time.sleep(_LOG_DELAY_S)
        raise _CannotServeError(
            f"the llama.cpp server did not start with {model_path}: {error} See its log above."
        ) from error


def _announce_and_wait(announce_fd: int, ready: str) -> None:
    """Write the URL and process id to stdout, then wait for SIGTERM or SIGINT.

    The wake-up pipe works on every thread that may get the signal; llama.cpp's threads do not block
    signals.
    """
    woken_fd, wake_fd = os.pipe()
    os.set_blocking(wake_fd, False)
    signal.set_wakeup_fd(wake_fd)
    for number in _exit_signals():
        signal.signal(number, _only_wake)
    os.write(announce_fd, f"{ready}\n".encode())
    os.close(announce_fd)
    os.read(woken_fd, 1)


def _exit_signals() -> list[signal.Signals]:
    """Return the signals that end the server: without SIGINT under `nohup` or a script's `&`."""
    interruptible = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    return list(_EXIT_SIGNALS) if interruptible else [signal.SIGTERM]


def _only_wake(_number: int, _frame: object) -> None:
    """Do nothing. Without a handler the signal would end the process before the pipe is read."""


if __name__ == "__main__":
    sys.exit(main())
