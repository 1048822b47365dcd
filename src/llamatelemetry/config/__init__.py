"""Configuration: every option, its variable and its default.

Each option is declared once, on a field of `LlamaTelemetryConfig`. Reading the environment,
`effective_config()`, `describe()` and the documentation all use that declaration. Nothing here
acts on an option, and nothing else reads our variables.

    config = effective_config(exporter="file")
    config.exporter, config.export_path   # 'file', './llamatelemetry-data'
    print(config.describe())
"""

from __future__ import annotations

from ._config import OPTIONS, LlamaTelemetryConfig
from ._environment import Given
from ._in_use import config_in_use, use_config
from ._option import Option
from ._otel_variables import SIGNALS
from ._resolve import effective_config, sdk_disabled
from ._values import SAMPLING_RULES, Reader

__all__ = [
    "OPTIONS",
    "SAMPLING_RULES",
    "SIGNALS",
    "Given",
    "LlamaTelemetryConfig",
    "Option",
    "Reader",
    "config_in_use",
    "effective_config",
    "sdk_disabled",
    "use_config",
]
