"""What the GPUs of this machine used during a run; nothing where there are none."""

from __future__ import annotations

from typing import Self


def gpu_names() -> list[str]:
    """Name the GPUs that this process may use."""
    return []


class GpuMeter:
    """Measures energy from its beginning to its end."""

    def __init__(self) -> None:
        self.energy_j: float | None = None
        self.idle_w: float | None = None
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
