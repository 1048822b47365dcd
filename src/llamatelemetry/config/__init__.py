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
from ._environment import OptionValue
from ._in_use import config_in_use, use_config
from ._option import Option
from ._otel_variables import SIGNALS
from ._resolve import effective_config, sdk_disabled
from ._values import SAMPLING_RULES, Reader, expression_with_flags

__all__ = [
    "OPTIONS",
    "SAMPLING_RULES",
    "SIGNALS",
    "LlamaTelemetryConfig",
    "Option",
    "OptionValue",
    "Reader",
    "config_in_use",
    "effective_config",
    "expression_with_flags",
    "sdk_disabled",
    "use_config",
]
