"""Set-up of all tests: an environment without telemetry variables, and hypothesis profiles."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import locale
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.support.recorder",
    "tests.support.quiet_machine",
    "tests.support.components",
]
if importlib.util.find_spec("tests.support.llama_server"):
    pytest_plugins.append("tests.support.llama_server")

# Prefixes of variables that tests must not see.
_SETTINGS = (
    # Options of telemetry, and of the clients and servers that tests start.
    *("OTEL_", "LLAMATELEMETRY_", "OPENAI_", "LLAMA_", "GRAPHISTRY_"),
    # GPU selection: tests define their GPUs with an NVML library of their own.
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "NVML_"),
    # Variables of distributed jobs.
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    # Proxies and certificates: tests use loopback servers and create their certificates.
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    *("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    # Terminal size, because tests compare the output of child processes.
    *("COLUMNS", "LINES"),
    # Buffering: the output of children is buffered, as it usually is.
    "PYTHONUNBUFFERED",
    # Encoding and warnings: children write UTF-8, which is Python's default in the locale "C", and
    # no warnings, which would be in the compared output.
    *("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE", "PYTHONWARNINGS"),
)
# Variables that pytest reads for its own output before the tests start.
_COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def _settings_in_environment() -> list[str]:
    return [name for name in os.environ if name.startswith(_SETTINGS)]


# Delete them at import, for fixtures of wider scopes and for imported modules.
for _name in _settings_in_environment():
    del os.environ[_name]
# Read files and the output of children as UTF-8.
with contextlib.suppress(locale.Error):
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    for name in _COLOURS:
        os.environ.pop(name, None)


# No deadline, because an example may have to wait on a busy machine. No database, because tests
# leave no files in the checkout.
# `scripts/test` uses the first one, `scripts/test --all` the second one.
settings.register_profile("fast", deadline=None, database=None, max_examples=20)
settings.register_profile("all", deadline=None, database=None, max_examples=150)
settings.load_profile("fast")

RERUN_CAUSE = "Server disconnected without sending a response"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often a test had to run again because llama.cpp closed a connection."""
    reruns = terminalreporter.stats.get("rerun", [])
    count = sum(RERUN_CAUSE in report.longreprtext for report in reruns)
    terminalreporter.write_line(f"Reruns after '{RERUN_CAUSE}': {count}")


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, which many tests run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete variables that an earlier test or fixture has left."""
    for name in _settings_in_environment():
        monkeypatch.delenv(name)


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Return a path for a Unix socket. It is short: macOS allows 103 characters."""
    with tempfile.TemporaryDirectory(prefix="llm-", dir="/tmp") as folder:
        yield Path(folder, "llm.sock")
