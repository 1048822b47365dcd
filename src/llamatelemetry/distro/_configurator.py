"""The configurator: the one way in which an SDK is set up, for zero code and for `init()`."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_CONFIGURATOR
from opentelemetry.sdk._configuration import (
    _OTelSDKConfigurator,  # pyright: ignore[reportPrivateUsage] - made to be subclassed
)
from opentelemetry.sdk.environment_variables import OTEL_CONFIG_FILE

from llamatelemetry._optional import required_by
from llamatelemetry.config import (
    LlamaTelemetryConfig,
    effective_config,
    sdk_disabled,
    set_active_config,
)
from llamatelemetry.otel.redaction.rules import with_valid_rules

from ._instrumentors import instrumentors
from ._setup import Setup, from_file, from_options

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

NAME = "llamatelemetry"
"""Of the entry points of the distro and of the configurator."""


class LlamaTelemetryConfigurator(_OTelSDKConfigurator):
    """Sets the SDK up by our options and OpenTelemetry's variables, once.

    Configured again, it only puts new span processors in front. A provider that the
    application has made stays the global one.
    """

    setup: Setup | None = None
    disabled = False
    """Whether the declarative file says that there is to be no telemetry."""
    _chosen_by_us = False

    def choose(self) -> None:
        """Makes OpenTelemetry's loader take this configurator, unless the user names one."""
        if OTEL_PYTHON_CONFIGURATOR not in os.environ:
            os.environ[OTEL_PYTHON_CONFIGURATOR] = NAME
            self._chosen_by_us = True

    def forget(self) -> None:
        """Lets the next configuration start from nothing."""
        self.setup = None
        self.disabled = False
        set_active_config(None)

    def _configure(
        self,
        config: LlamaTelemetryConfig | None = None,
        auto_instrumentation_version: str | None = None,
        span_processors: Sequence[SpanProcessor] = (),
        **kwargs: Any,
    ) -> None:
        if self._chosen_by_us:
            # The loader has read it. A child process may have other packages installed.
            os.environ.pop(OTEL_PYTHON_CONFIGURATOR, None)
            self._chosen_by_us = False
        if sdk_disabled():
            return
        config = with_valid_rules(config or effective_config())
        processors = (*config.span_processors, *span_processors)
        if self.setup is not None:
            self.setup.add(processors)
            return
        set_log_level(config)
        config = config.replace(span_processors=processors)
        path = os.environ.get(OTEL_CONFIG_FILE)
        if path:
            self._configure_from_file(path, config)
        else:
            options = {"auto_instrumentation_version": auto_instrumentation_version, **kwargs}
            instrumentors.prepare(config)
            self.setup = from_options(self._configure_sdk, config, options)
        set_active_config(config)

    def _configure_sdk(self, **options: Any) -> None:
        super()._configure(**options)  # pyright: ignore[reportUnknownMemberType] - it has no types

    def _configure_from_file(self, path: str, config: LlamaTelemetryConfig) -> None:
        with required_by(OTEL_CONFIG_FILE, "llamatelemetry[declarative]"):
            declarative = importlib.import_module("opentelemetry.configuration")
        file = declarative.load_config_file(path)
        self.disabled = bool(file.disabled)
        instrumentors.prepare(config, _declared_instrumentors(file))
        self.setup = from_file(lambda: declarative.configure_sdk(file), config)


def _declared_instrumentors(file: Any) -> dict[str, bool]:
    section = file.instrumentation_development
    declared: dict[str, dict[str, Any]] | None = section.python if section is not None else None
    return {name: options.get("enabled", True) for name, options in (declared or {}).items()}


def set_log_level(config: LlamaTelemetryConfig) -> None:
    """Applies the option `log_level` to the loggers of this package."""
    logger = logging.getLogger("llamatelemetry")
    given = config.option_value("log_level")
    # The default does not override what the application has set.
    if logger.level == logging.NOTSET or (given is not None and given.origin != "default"):
        logger.setLevel(config.log_level)
