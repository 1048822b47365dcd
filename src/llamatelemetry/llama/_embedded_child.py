"""The child process that runs the llama.cpp server of the xllamacpp wheel.

Run it with ``python -m llamatelemetry.llama.embedded``. A process of its own, because the server
computes in native code with the interpreter lock held while it loads, and because a crash in
native code must not take the application along.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import MissingPackageError, required_by
from llamatelemetry.llama._embedded_options import EmbeddedOptions, parse_arguments
from llamatelemetry.llama._embedded_tuning import tune

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

XLLAMACPP_REQUIREMENT = "xllamacpp==2026.10.11549"

_LOG_SETTLES_S = 0.1
_ENDING = (signal.SIGTERM, signal.SIGINT)


class _CannotServeError(Exception):
    """The server cannot be started; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the end of stdin; 1 when the server cannot start.

    SIGINT stays ignored if it was ignored when the process started.
    """
    options, watch_stdin = parse_arguments(arguments)
    announce_fd = _keep_stdout_for_one_line()
    try:
        _check_model(options.model_path)
        xllamacpp = _import_xllamacpp()
        try:
            parameters = _server_parameters(xllamacpp, options)
        except (OSError, ValueError) as error:
            raise _CannotServeError(str(error)) from error
        except AttributeError as error:  # its parameters are renamed now and then
            raise _CannotServeError(
                f"this version of xllamacpp cannot be used ({error}); "
                f"install the one that can: pip install {XLLAMACPP_REQUIREMENT}"
            ) from error
        _end_at_once_while_loading(watch_stdin=watch_stdin)
        server = _start(xllamacpp, parameters, options.model_path)
    except _CannotServeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a program's own stderr
        return 1
    ready = json.dumps({"url": server.listening_address, "pid": os.getpid()})
    _wait_for_the_end(announce_fd, ready)
    # Not by the server's destructor: with a stream in flight it waits, interpreter lock held, for
    # a handler that nobody wakes (seen with 2026.10.11549). It would save nothing anyway.
    sys.stderr.flush()
    os._exit(0)


def _keep_stdout_for_one_line() -> int:
    """Send whatever else is printed, from native code too, to stderr; return the real stdout."""
    sys.stdout.flush()
    announce_fd = os.dup(1)
    os.dup2(2, 1)
    return announce_fd


def _check_model(path: Path) -> None:
    # llama.cpp says no more than "failed to load model" for all of these.
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
            # Without type information: the wheel is one extension module.
            return importlib.import_module("xllamacpp")
    except MissingPackageError as error:
        raise _CannotServeError(str(error)) from error
    except Exception as error:  # a native module may raise anything
        raise _CannotServeError(f"cannot import xllamacpp: {error}") from error


def _server_parameters(xllamacpp: Any, options: EmbeddedOptions) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.model_path)
    # Without an alias the server would answer with the whole path as the model's name.
    parameters.model_alias = {options.alias or options.model_path.stem}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_ctx = options.ctx_size
    parameters.n_parallel = options.parallel
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.warmup = options.warmup
    parameters.ui = False
    parameters.endpoint_metrics = options.metrics
    parameters.endpoint_slots = options.slots
    if options.embeddings:
        parameters.embedding = True
        if options.pooling != "model":
            # Mean pooling makes one vector per input and leaves chat working.
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if options.reranking:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    parameters.api_keys = _api_keys(options)
    tune(xllamacpp, parameters, options)
    return parameters


def _api_keys(options: EmbeddedOptions) -> list[str]:
    if options.api_key_env:
        key = os.environ.get("LLAMA_API_KEY", "").strip()
        if not key:
            raise _CannotServeError("LLAMA_API_KEY is not set")
        return [key]
    return [] if options.api_key_file is None else _keys_in(options.api_key_file)


def _keys_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise _CannotServeError(f"API key file cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        # An empty list would mean a server that is open to everybody.
        raise _CannotServeError(f"API key file holds no key: {path}")
    return keys


def _end_at_once_while_loading(*, watch_stdin: bool) -> None:
    """While the model loads there is nothing to tidy up, so let signals just end the process.

    Python's own SIGINT handler would only run once the model is loaded.
    """
    # The thread that has started this process may block them, and a mask is inherited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if signal.SIGINT in _taken():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if watch_stdin:
        threading.Thread(target=_end_with_stdin, name="watch-stdin", daemon=True).start()


def _end_with_stdin() -> None:
    # The parent holds the other end and never writes: it closes when the parent ends, SIGKILL
    # included. Loading holds the interpreter lock, so an end during it is seen right after it.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _start(xllamacpp: Any, parameters: Any, model_path: Path) -> Any:
    try:
        return xllamacpp.Server(parameters)  # returns when the model is loaded and it listens
    except RuntimeError as error:
        # llama.cpp logs from a thread of its own: with a moment for it, our line is the last.
        time.sleep(_LOG_SETTLES_S)
        raise _CannotServeError(
            f"the llama.cpp server did not start with {model_path}: {error} "
            "Its log above tells why."
        ) from error


def _wait_for_the_end(announce_fd: int, ready: str) -> None:
    """Announce the server, then wait for SIGTERM or SIGINT.

    The wake-up pipe works whichever thread the system gives the signal to; llama.cpp's threads
    do not block signals.
    """
    woken_fd, wake_fd = os.pipe()
    os.set_blocking(wake_fd, False)
    signal.set_wakeup_fd(wake_fd)
    for number in _taken():
        signal.signal(number, _only_wake)
    os.write(announce_fd, f"{ready}\n".encode())
    os.close(announce_fd)
    os.read(woken_fd, 1)


def _taken() -> list[signal.Signals]:
    """Return the signals that end the server. `nohup` and a script's `&` have SIGINT ignored."""
    interruptible = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    return list(_ENDING) if interruptible else [signal.SIGTERM]


def _only_wake(_number: int, _frame: object) -> None:
    """A handler must be there, or the signal would end the process before the pipe is read."""
