"""What every test gets: no settings of the surroundings, and a profile of hypothesis."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import locale
import os

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.support.recorder",
    "tests.support.quiet_machine",
    "tests.support.components",
]
if importlib.util.find_spec("tests.support.llama_server"):
    pytest_plugins.append("tests.support.llama_server")

# Variables that no test may see, by how their names begin.
_SETTINGS = (
    # Of telemetry, and of the clients and servers that tests start.
    *("OTEL_", "LLAMATELEMETRY_", "OPENAI_", "LLAMA_", "GRAPHISTRY_"),
    # Which GPUs there are is what a test's driver says.
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    # Of a job with several processes: a test's own processes are all of it.
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    # Servers on loopback are asked directly, and certificates are those a test makes.
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    *("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    # What a child prints is compared: it has no other width than the one a test gives it.
    *("COLUMNS", "LINES"),
    # Children write UTF-8, as Python does by itself even where the locale is "C"; and warn of
    # nothing, as many a library's warnings would be in the output that is compared.
    *("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE", "PYTHONWARNINGS"),
)
# Likewise, but pytest's own output goes by them first.
_COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def _settings_in_environment() -> list[str]:
    return [name for name in os.environ if name.startswith(_SETTINGS)]


# At import, for fixtures of a wider scope and for the modules that tests import.
for _name in _settings_in_environment():
    del os.environ[_name]
# So that this process reads what its children write, and files, as UTF-8.
with contextlib.suppress(locale.Error):
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    for name in _COLOURS:
        os.environ.pop(name, None)


# No deadline: on a busy machine an example may have to wait. No database: the checkout stays clean.
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
    """Many tests collect garbage; what all those modules have brought never is any."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a setting that it, or one of its fixtures, did not make."""
    for name in _settings_in_environment():
        monkeypatch.delenv(name)
