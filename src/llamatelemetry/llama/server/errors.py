"""Errors of a managed llama.cpp server, and explanations of how a server process exited."""

from __future__ import annotations

import errno
import platform
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

XLLAMACPP_REQUIREMENT = "xllamacpp==2026.10.11549"
LOG_LINES_SHOWN = 20
# A shell reports 128 + N for a program that signal N ended: so do wrapper scripts and containers.
_SHELL_SIGNALS = 128
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127

_OWN_BUILD = (
    "Use a build for this CPU: build llama.cpp from source on this machine, or elsewhere with "
    "-DGGML_NATIVE=OFF"
)
# The embedded server has no path that could be named or exchanged.
_WITHOUT_EMBEDDED = (
    f"{_OWN_BUILD}. ServerManager takes its llama-server from LLAMA_SERVER_PATH; "
    "`llamatelemetry demo` takes the address of a running one: --base-url http://127.0.0.1:8080."
)
_OR_EMBEDDED = (
    f"{_OWN_BUILD}; or install the embedded server (pip install {XLLAMACPP_REQUIREMENT}) and pass "
    'binary="embedded".'
)
_OTHER_CPU = "it was built for another CPU"


class ServerManagerError(RuntimeError):
    """A managed server did not start, or is not running any more.

    Attributes:
        log_lines: The last lines that the server logged.
        exit_code: Exit status of the server, negative for a signal; `None` if it did not exit by
            itself.

    Examples:
        >>> from llamatelemetry import ServerConfig, ServerManager
        >>> from llamatelemetry.llama import ServerManagerError
        >>> server = ServerManager(ServerConfig("model.gguf", port=0), binary="/missing/llama-server")
        >>> try:
        ...     server.start()
        ... except ServerManagerError as error:
        ...     print(type(error).__name__)
        ServerNotFoundError
    """

    def __init__(
        self,
        message: str,
        *,
        log_lines: Sequence[str] = (),
        exit_code: int | None = None,
        advice: str = "",
    ) -> None:
        self.log_lines = tuple(log_lines)
        self.exit_code = exit_code
        lines = [message, advice] if advice else [message]
        if log_lines and advice:
            lines.append("Its last log lines:")
        elif log_lines:
            lines[0] += "; its last log lines:"
        super().__init__("\n".join([*lines, *self.log_lines[-LOG_LINES_SHOWN:]]))


class ServerNotFoundError(ServerManagerError):
    """This machine has no llama.cpp server. The message has instructions to install one."""


class UnsupportedOptionError(ServerManagerError):
    """The server that was found does not support a requested option."""


class PortTakenError(ServerManagerError):
    """Another program listens on the server's port, or this user may not listen on it."""


class ServerCrashedError(ServerManagerError):
    """The server exited by itself, while it loaded its model or later."""


class StartupTimeoutError(ServerManagerError):
    """The server was not ready within `startup_timeout_s`, and was stopped."""


class Explanation(NamedTuple):
    """The likely cause, as a clause, and the remedy, in sentences; both empty if unknown."""

    cause: str = ""
    remedy: str = ""


# By name: Windows has few of these signals.
_BY_SIGNAL = {
    "SIGKILL": Explanation(
        "perhaps the system ran out of memory",
        "If no person or service killed it, look for the OOM killer in `dmesg`. A smaller model "
        "or n_ctx needs less memory.",
    ),
    "SIGSEGV": Explanation(
        "it crashed in native code",
        "Use another build of llama.cpp. With a GPU, try n_gpu_layers=0, which does not use its "
        "driver.",
    ),
    "SIGBUS": Explanation(
        "it could not read or write mapped memory",
        "Check that the model file is complete and that no disk is full; try mmap=False.",
    ),
    "SIGABRT": Explanation(
        "it aborted after an error",
        "The log names the check or the allocation that failed.",
    ),
}


def _missing_library(path_variable: str) -> Explanation:
    return Explanation(
        "a shared library is missing",
        f"Install the library that the log names, or add its directory to {path_variable}.",
    )


# The exit statuses of a program that the dynamic loader cannot load, and what the loaders of
# glibc, musl and macOS print.
_LOADER_CODES = (1, _NOT_FOUND, -signal.SIGABRT)
_LOADER_MESSAGES = (
    (
        re.compile(r"version [`'](GLIBC|GLIBCXX|CXXABI)_\S+ not found"),
        Explanation(
            "it was built for a newer system",
            "Build llama.cpp from source on this machine, or use a release for this system.",
        ),
    ),
    (
        re.compile(r"error while loading shared libraries|Error loading shared library"),
        _missing_library("LD_LIBRARY_PATH"),
    ),
    (re.compile(r"Library not loaded: "), _missing_library("DYLD_LIBRARY_PATH")),
)
_BY_STATUS = {
    _CANNOT_EXECUTE: Explanation(
        "a program cannot be executed",
        "Check its permissions (chmod +x) and that it was built for this machine's architecture, "
        f"{platform.machine()}.",
    ),
    _NOT_FOUND: Explanation(
        "a program or a shared library was not found",
        "Install what the log names, or add its directory to PATH or LD_LIBRARY_PATH.",
    ),
}
_BY_ERRNO = {
    errno.ENOEXEC: Explanation(
        f"it was built for another architecture than {platform.machine()}, or is a script without "
        "a `#!` line",
        f"Use a build of llama.cpp for {platform.machine()}.",
    ),
    errno.EACCES: Explanation(
        "execution is not permitted",
        "Run chmod +x on it. If it is executable already, its file system may be mounted with "
        "noexec.",
    ),
    errno.ENOENT: Explanation(
        "the interpreter of its `#!` line, or the dynamic loader it was linked for, is missing",
        "Use a build of llama.cpp for this system.",
    ),
}


def describe_exit(code: int) -> str:
    """Return how a process exited, such as "was terminated by SIGILL"."""
    if code >= 0:
        return f"exited with status {code}"
    return f"was terminated by {_signal_name(-code) or f'signal {-code}'}"


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return None


def explain_exit(code: int | None, log: Sequence[str] = (), *, embedded: bool) -> Explanation:
    """Explain an exit code, negative for a signal, using the last log lines.

    The remedies for the embedded server differ.
    """
    if code in _LOADER_CODES:
        text = "\n".join(log)
        for pattern, explanation in _LOADER_MESSAGES:
            if pattern.search(text):
                return explanation
    name = _signal_name(0 if code is None else -code if code < 0 else code - _SHELL_SIGNALS)
    if name == "SIGILL":
        return Explanation(_OTHER_CPU, _WITHOUT_EMBEDDED if embedded else _OR_EMBEDDED)
    return _BY_SIGNAL.get(name or "") or _BY_STATUS.get(code or 0, Explanation())


def explain_os_error(error: OSError) -> Explanation:
    """Explain why the operating system could not execute an existing program."""
    return _BY_ERRNO.get(error.errno or 0, Explanation())
