"""How a server process ended, in words: the likely cause, and what to do about it."""

from __future__ import annotations

import errno
import platform
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

from llamatelemetry.llama._embedded_child import XLLAMACPP_REQUIREMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

# A shell reports 128 + N for a program that signal N ended: so do wrapper scripts and containers.
_SHELL_SIGNALS = 128
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127

_OWN_BUILD = (
    "Use a build for this CPU: build llama.cpp from source on this machine, or elsewhere with "
    "-DGGML_NATIVE=OFF"
)
# The embedded server has no program that could be named or exchanged.
_WITHOUT_EMBEDDED = (
    f"{_OWN_BUILD}. ServerManager takes its llama-server from LLAMA_SERVER_PATH; "
    "`llamatelemetry demo` takes the address of a running one: --base-url http://127.0.0.1:8080."
)
_OR_EMBEDDED = (
    f"{_OWN_BUILD}; or install the embedded server (pip install {XLLAMACPP_REQUIREMENT}) and pass "
    'binary="embedded".'
)
_OTHER_CPU = "it was built for another CPU"


class Explanation(NamedTuple):
    """The likely cause, as a clause, and what to do, in sentences; both empty if unknown."""

    cause: str = ""
    remedy: str = ""


_BY_SIGNAL = {
    signal.SIGKILL: Explanation(
        "perhaps the system ran out of memory",
        "If no person or service killed it, look for the OOM killer in `dmesg`. A smaller model "
        "or n_ctx needs less memory.",
    ),
    signal.SIGSEGV: Explanation(
        "it crashed in native code",
        "Use another build of llama.cpp. With a GPU, try n_gpu_layers=0, which leaves its driver out.",
    ),
    signal.SIGBUS: Explanation(
        "it could not read or write mapped memory",
        "Check that the model's file is complete and that no disk is full; try mmap=False.",
    ),
    signal.SIGABRT: Explanation(
        "it stopped itself after an error",
        "The log names the check or the allocation that failed.",
    ),
}
# How a program ends that the dynamic loader cannot load, and what it prints: glibc, musl, macOS.
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
        Explanation(
            "a shared library is missing",
            "Install the library that the log names, or add its folder to LD_LIBRARY_PATH.",
        ),
    ),
    (
        re.compile(r"Library not loaded: "),
        Explanation(
            "a shared library is missing",
            "Install the library that the log names, or add its folder to DYLD_LIBRARY_PATH.",
        ),
    ),
)
_BY_STATUS = {
    _CANNOT_EXECUTE: Explanation(
        "a program cannot be executed",
        "Check its permissions (chmod +x) and that it was built for this machine's architecture, "
        f"{platform.machine()}.",
    ),
    _NOT_FOUND: Explanation(
        "a program or a shared library was not found",
        "Install what the log names, or add its folder to PATH or LD_LIBRARY_PATH.",
    ),
}
_BY_ERRNO = {
    errno.ENOEXEC: Explanation(
        f"it was built for another architecture than {platform.machine()}, or is a script without "
        "a `#!` line",
        f"Use a build of llama.cpp for {platform.machine()}.",
    ),
    errno.EACCES: Explanation(
        "it may not be executed",
        "Run chmod +x on it. If that is not it, its file system may be mounted with noexec.",
    ),
    errno.ENOENT: Explanation(
        "its interpreter is missing: that of its `#!` line, or the loader it was linked for",
        "Use a build of llama.cpp for this system.",
    ),
}


def describe_exit(code: int) -> str:
    """Return how a process ended, such as "was ended by SIGILL"."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-code}"


def explain_exit(code: int | None, log: Sequence[str] = (), *, embedded: bool) -> Explanation:
    """Explain an exit code, negative for a signal, with the help of the last log lines."""
    if code in _LOADER_CODES:
        text = "\n".join(log)
        for pattern, explanation in _LOADER_MESSAGES:
            if pattern.search(text):
                return explanation
    number = 0 if code is None else -code if code < 0 else code - _SHELL_SIGNALS
    if number == signal.SIGILL:
        return Explanation(_OTHER_CPU, _WITHOUT_EMBEDDED if embedded else _OR_EMBEDDED)
    for known, explanation in _BY_SIGNAL.items():
        if number == known:
            return explanation
    return _BY_STATUS.get(code or 0, Explanation())


def explain_os_error(error: OSError) -> Explanation:
    """Explain why the system did not start a program that is there."""
    return _BY_ERRNO.get(error.errno or 0, Explanation())
