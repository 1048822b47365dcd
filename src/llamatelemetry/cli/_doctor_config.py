"""The configuration in force: each option that was given, and what was wrong with any."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from llamatelemetry.cli._doctor_check import Check
from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig, effective_config

SECTION = "Configuration"


class _Collector(logging.Handler):
    """Keeps the messages that resolving the configuration logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def resolve(environ: Mapping[str, str]) -> tuple[LlamaTelemetryConfig, list[str]]:
    """The effective configuration, and the warnings about bad values on the way to it."""
    logger, collector = logging.getLogger("llamatelemetry.config"), _Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        return effective_config(environ=environ), collector.messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def config_checks(config: LlamaTelemetryConfig, warnings: list[str]) -> list[Check]:
    """Bad values first, then what was given and by which variable, then the defaults."""
    checks = [Check(SECTION, "warn", "bad value", message) for message in warnings]
    defaults: list[str] = []
    for name, option in OPTIONS.items():
        given = config.option_value(name)
        if given is None or given.origin == "default":
            text = option.default_doc if given is None else option.shown(given.value)
            defaults.append(f"{name}={text}")
        else:
            detail = f"{option.shown(given.value)}, from {given.origin}"
            checks.append(Check(SECTION, "info", name, detail))
    return [*checks, Check(SECTION, "info", "defaults", "; ".join(defaults))]
