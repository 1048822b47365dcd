"""What `llamatelemetry.init()` was told, for what is made without being handed a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._config import LlamaTelemetryConfig


class _InUse:
    config: LlamaTelemetryConfig | None = None


def use_config(config: LlamaTelemetryConfig | None) -> None:
    """Let this be what `config_in_use` gives; ``None`` once nothing is set up any more."""
    _InUse.config = config


def config_in_use() -> LlamaTelemetryConfig | None:
    """Give what `llamatelemetry.init()` has put in force; ``None``: the environment alone counts."""
    return _InUse.config
