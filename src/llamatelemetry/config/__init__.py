"""Configuration: all options with their environment variables and defaults.

Each option is declared once, as a field of `LlamaTelemetryConfig`. That declaration drives the
environment, `describe()` and the documentation. No other package reads `LLAMATELEMETRY_*`.

`init()` and the zero-code set-up resolve all sources once, with `effective_config()`, and put the
result in force with `set_active_config()`. Everything else reads it with `active_config()`:

    config = active_config(strict_operation_names=False)
    config.capture_content   # 'no_content'
    print(config.describe())
"""

from __future__ import annotations

from llamatelemetry._run_key import RUN_KEY_VARIABLE, new_run_key, run_key
from llamatelemetry.config._config import OPTIONS, LlamaTelemetryConfig
from llamatelemetry.config._option import Option
from llamatelemetry.config._parsers import (
    SAMPLING_RULES,
    SIGNALS,
    ValueParser,
    expression_with_flags,
)
from llamatelemetry.config._resolve import (
    FromActiveConfig,
    active_config,
    effective_config,
    sdk_disabled,
    set_active_config,
)
from llamatelemetry.config._sources import OptionValue
from llamatelemetry.config._urls import SECRET_PARAMETER, mask_url, mask_urls

__all__ = [
    "OPTIONS",
    "RUN_KEY_VARIABLE",
    "SAMPLING_RULES",
    "SECRET_PARAMETER",
    "SIGNALS",
    "FromActiveConfig",
    "LlamaTelemetryConfig",
    "Option",
    "OptionValue",
    "ValueParser",
    "active_config",
    "effective_config",
    "expression_with_flags",
    "mask_url",
    "mask_urls",
    "new_run_key",
    "run_key",
    "sdk_disabled",
    "set_active_config",
]
