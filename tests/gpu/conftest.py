"""What the tests of the GPU share: an NVML to talk to, in this process or in a child."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import nvml


@pytest.fixture
def driver_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nvml.Driver]:
    """Makes this process one with an NVIDIA driver and these devices, for one test."""
    nvml.load()

    def make(machine: dict[str, Any]) -> nvml.Driver:
        driver = nvml.Driver(tmp_path, machine)
        for name, value in driver.environment.items():
            monkeypatch.setenv(name, value)
        return driver

    return make


@pytest.fixture(autouse=True)
def no_cuda_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return
