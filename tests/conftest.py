"""What every test gets: an environment without anybody's telemetry settings."""

from __future__ import annotations

import gc
import importlib.util
import os

import pytest

pytest_plugins = ["tests.recorder", "tests.components"]
if importlib.util.find_spec("tests.servers"):
    pytest_plugins.append("tests.servers")

_SETTINGS = ("OTEL_", "LLAMATELEMETRY_", "OPENAI_")


def _settings_in_environment() -> list[str]:
    return [name for name in os.environ if name.startswith(_SETTINGS)]


# At import, for fixtures of a wider scope and for the modules that tests import.
for _name in _settings_in_environment():
    del os.environ[_name]


def pytest_collection_finish() -> None:
    """Many tests collect garbage; what all those modules have brought never is any."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a setting that it, or one of its fixtures, did not make."""
    for name in _settings_in_environment():
        monkeypatch.delenv(name)
