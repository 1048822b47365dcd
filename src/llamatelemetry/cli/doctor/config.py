"""Checks of the configuration: explicit options and invalid values."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig, effective_config


class _Collector(logging.Handler):
    """Logging handler that keeps the messages logged while options are resolved."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def resolve(environ: Mapping[str, str]) -> tuple[LlamaTelemetryConfig, list[str]]:
    """Return the effective configuration and the warnings about invalid values."""
    logger, collector = logging.getLogger("llamatelemetry.config"), _Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        return effective_config(environ=environ), collector.messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def config_checks(config: LlamaTelemetryConfig, warnings: list[str]) -> list[Check]:
    """Return invalid values first, then explicit options with their source, then the defaults."""
    checks = [Check("warn", _title(message), message) for message in warnings]
    defaults = 0
    for name, option in OPTIONS.items():
        given = config.option_value(name)
        if given is None or given.origin == "default":
            defaults += 1
        else:
            detail = f"{option.shown(given.value)}, from {given.origin}"
            checks.append(Check("info", name, detail))
    detail = f"{defaults} options at their defaults (docs: Configuration; --json lists them)"
    return [*checks, Check("info", "defaults", detail)]


def _title(warning: str) -> str:
    return "unknown variable" if "unknown variable" in warning else "invalid value"
