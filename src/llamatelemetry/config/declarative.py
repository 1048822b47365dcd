"""Load OpenTelemetry's declarative configuration file."""

from __future__ import annotations

import importlib
import logging
from typing import Any


def load_config_file(path: str) -> Any:
    """Return the parsed file. Its errors are only raised; the loader also logs their tracebacks.

    Raises:
        ImportError: opentelemetry-configuration is not installed.
        Exception: The file cannot be read, or is invalid.
    """
    # An optional module that loads the SDK, so it is imported only if a file is configured.
    declarative: Any = importlib.import_module("opentelemetry.configuration")
    logger = logging.getLogger("opentelemetry.configuration")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        return declarative.load_config_file(path)
    finally:
        logger.setLevel(level)
