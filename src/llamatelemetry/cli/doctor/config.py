"""Checks of the configuration: explicit options and invalid values."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig, effective_config
from llamatelemetry.config.otel_variables import corrections


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
        config = effective_config(environ=environ)
        invalid = [each.message for each in corrections(environ).values() if each.message]
        return config, list(dict.fromkeys([*collector.messages, *invalid]))
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def config_checks(
    config: LlamaTelemetryConfig, warnings: list[str], *, verbose: bool = False
) -> list[Check]:
    """Return invalid values first, then explicit options with their source, then the defaults."""
    checks = [_warning(message) for message in warnings]
    defaults: list[Check] = []
    for name, option in OPTIONS.items():
        given = config.option_value(name)
        if given is None or given.origin == "default":
            defaults.append(Check("info", name, f"{option.default_doc} (default)"))
        else:
            detail = f"{option.shown(given.value)}, from {given.origin}"
            checks.append(Check("info", name, detail))
    if verbose:
        return [*checks, *defaults]
    detail = f"{len(defaults)} options at their defaults (--verbose lists them)"
    return [*checks, Check("info", "defaults", detail)]


def _warning(message: str) -> Check:
    if message.startswith("OTEL_PROPAGATORS "):
        # It imports OpenTelemetry before any distro can replace the value.
        detail = f"{message}, but opentelemetry-instrument exits and the application does not start"
        return Check("fail", _title(message), detail, "Unset or correct OTEL_PROPAGATORS")
    return Check("warn", _title(message), message)


def _title(warning: str) -> str:
    return "unknown variable" if "unknown variable" in warning else "invalid value"
