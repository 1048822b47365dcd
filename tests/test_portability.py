"""The package imports where names that only POSIX systems have are missing, as on Windows.

This file runs itself as a child process, which removes the names before it imports the package. CI
also runs the tests of the client side on Windows.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import signal
import subprocess
import sys

# These use the names at import on this system but not on Windows, so they are imported first.
_LIBRARIES = (
    *("asyncio", "concurrent.futures", "multiprocessing.util", "socketserver", "sqlite3", "ssl"),
    *("grpc", "httpx2", "numpy", "rich.table", "scipy.stats", "typer"),
    *("opentelemetry.instrumentation.distro", "opentelemetry.sdk._logs"),
    *("opentelemetry.sdk.metrics", "opentelemetry.sdk.trace"),
)
_POSIX_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios")
_POSIX_NAMES = {
    os: (
        *("fork", "getpgid", "getsid", "getuid", "geteuid", "killpg", "posix_spawn"),
        *("register_at_fork", "sched_getaffinity", "setsid", "uname", "WNOHANG"),
    ),
    signal: (
        *("pthread_sigmask", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE"),
        *("SIGQUIT", "SIGUSR1", "SIGUSR2", "SIG_BLOCK", "SIG_SETMASK", "SIG_UNBLOCK"),
    ),
}
_PACKAGES = (
    "llamatelemetry",
    "llamatelemetry_instrumentation_llamacpp",
    "llamatelemetry_instrumentation_openai",
    "llamatelemetry_instrumentation_transformers",
)


def test_every_module_imports_without_posix_names() -> None:
    child = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, ""), child.stderr


def _remove_posix_names() -> None:
    for library in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    for name in _POSIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment] - makes an import of it fail
    for module, names in _POSIX_NAMES.items():
        for name in names:
            vars(module).pop(name, None)
    sys.platform = "win32"


def _print_failed_imports() -> None:
    for package in _PACKAGES:
        path = importlib.import_module(package).__path__
        # Without `onerror` a subpackage that fails to import would end the walk.
        for module in pkgutil.walk_packages(path, f"{package}.", onerror=lambda _name: None):
            # A `__main__` runs when it is imported, and `hatch_build` needs hatchling.
            if module.name.endswith(("__main__", "hatch_build")):
                continue
            try:
                importlib.import_module(module.name)
            except Exception as error:
                print(f"{module.name}: {type(error).__name__}: {error}")  # noqa: T201


if __name__ == "__main__":
    _remove_posix_names()
    _print_failed_imports()
