"""What every test gets: an environment without telemetry settings, and a profile of hypothesis."""

from __future__ import annotations

import gc
import importlib.util
import os

import pytest
from hypothesis import settings

pytest_plugins = ["tests.recorder", "tests.quiet", "tests.components"]
if importlib.util.find_spec("tests.servers"):
    pytest_plugins.append("tests.servers")

_SETTINGS = ("OTEL_", "LLAMATELEMETRY_", "OPENAI_")


def _settings_in_environment() -> list[str]:
    return [name for name in os.environ if name.startswith(_SETTINGS)]


# At import, for fixtures of a wider scope and for the modules that tests import.
for _name in _settings_in_environment():
    del os.environ[_name]

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
