"""The distro and the configurator: the only way to set up the SDK, without code and by `init()`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.instrumentation.distro import BaseDistro
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_CONFIGURATOR
from opentelemetry.sdk.environment_variables import OTEL_CONFIG_FILE

from llamatelemetry._optional import required_by
from llamatelemetry.config import (
    LlamaTelemetryConfig,
    effective_config,
    sdk_disabled,
    set_active_config,
)
from llamatelemetry.config.declarative import load_config_file
from llamatelemetry.distro._instrumentors import instrumentors
from llamatelemetry.distro._sdk import setup_from_file, setup_from_options
from llamatelemetry.distro._setup import Setup
from llamatelemetry.otel.redaction.options import with_valid_rules

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_logger = logging.getLogger("llamatelemetry.distro")

NAME = "llamatelemetry"
"""Name of the entry points of the distro and of the configurator."""


class LlamaTelemetryConfigurator:
    """Sets up the SDK by llamatelemetry's options and OpenTelemetry's variables, once.

    There is one instance per process. A second configuration only prepends new span
    processors. A global provider that the application set stays the global one. `disabled` is
    `True` if the declarative file disables telemetry.
    """

    setup: Setup | None = None
    disabled = False
    _named_itself = False
    _instance: LlamaTelemetryConfigurator | None = None

    def __new__(cls) -> Self:
        """Return the instance of this process."""
        if not isinstance(cls._instance, cls):
            cls._instance = super().__new__(cls)
        return cls._instance

    def name_itself(self) -> None:
        """Select this configurator for OpenTelemetry's loader, unless the user named another one."""
        if OTEL_PYTHON_CONFIGURATOR not in os.environ:
            os.environ[OTEL_PYTHON_CONFIGURATOR] = NAME
            self._named_itself = True

    def forget(self) -> None:
        """Forget the set-up, so that the next configuration creates another one."""
        self.setup = None
        self.disabled = False

    def configure(
        self,
        config: LlamaTelemetryConfig | None = None,
        auto_instrumentation_version: str | None = None,
        span_processors: Sequence[SpanProcessor] = (),
        **kwargs: Any,
    ) -> None:
        """Set up the SDK, by the options of the environment if `config` is `None`.

        `auto_instrumentation_version` is that of `opentelemetry-instrument`, for the resource.
        Further arguments are those of the SDK's own configurator.
        """
        if self._named_itself:
            # OpenTelemetry has read it. A child process may have other packages installed.
            os.environ.pop(OTEL_PYTHON_CONFIGURATOR, None)
            self._named_itself = False
        if sdk_disabled():
            return
        config = with_valid_rules(config or effective_config())
        processors = (*config.span_processors, *span_processors)
        if self.setup is not None:
            self.setup.add(processors)
            return
        set_log_level(config)
        config = config.replace(span_processors=processors)
        path = os.environ.get(OTEL_CONFIG_FILE, "").strip()
        if path:
            self._configure_from_file(path, config)
        else:
            options = {"auto_instrumentation_version": auto_instrumentation_version, **kwargs}
            instrumentors.prepare(config)
            self.setup = setup_from_options(config, options)
        set_active_config(config)

    def _configure_from_file(self, path: str, config: LlamaTelemetryConfig) -> None:
        with required_by(OTEL_CONFIG_FILE, "llamatelemetry[declarative]"):
            declarative = importlib.import_module("opentelemetry.configuration")
        try:
            file = load_config_file(path)
        except Exception as error:
            self.disabled = True
            _logger.warning(
                "%s must be a declarative configuration file, got %r: %s. OpenTelemetry is not set "
                "up, nothing is recorded",
                *(OTEL_CONFIG_FILE, path, " ".join(str(error).split())),
            )
            return
        self.disabled = bool(file.disabled)
        instrumentors.prepare(config, _declared_instrumentors(file))
        self.setup = setup_from_file(lambda: declarative.configure_sdk(file), config)


def _declared_instrumentors(file: Any) -> dict[str, bool]:
    section = file.instrumentation_development
    declared: dict[str, dict[str, Any]] | None = section.python if section is not None else None
    return {name: options.get("enabled", True) for name, options in (declared or {}).items()}


def set_log_level(config: LlamaTelemetryConfig) -> None:
    """Apply the option `log_level` to the loggers of this package."""
    logger = logging.getLogger("llamatelemetry")
    given = config.option_value("log_level")
    is_explicit = given is not None and given.origin != "default"
    # The default does not override a level that the application set, but one of an earlier set-up.
    if is_explicit or logger.level in {logging.NOTSET, _StderrHandler.applied_level}:
        logger.setLevel(config.log_level)
        _StderrHandler.applied_level = logger.level
    found = [each for each in logger.handlers if isinstance(each, _StderrHandler)]
    if is_explicit and not found:
        logger.addHandler(_StderrHandler())
    for each in () if is_explicit else found:
        logger.removeHandler(each)


class _StderrHandler(logging.Handler):
    """Prints records to standard error as long as the application has no handler for them.

    `logging` prints records below WARNING only through a handler, so a lower level would have no
    effect in a program without one.
    """

    applied_level = logging.NOTSET
    """The level that an option has set."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        own = logging.getLogger("llamatelemetry")
        found = [
            each for each in (*own.handlers, *logging.getLogger().handlers) if each is not self
        ]
        if not any(map(_shows_records, found)) and sys.stderr is not None:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{self.format(record)}\n")


def _shows_records(handler: logging.Handler) -> bool:
    is_sdk = type(handler).__module__.startswith("opentelemetry.")
    return not (is_sdk or isinstance(handler, logging.NullHandler))


class LlamaTelemetryDistro(BaseDistro):
    """Selects llamatelemetry's configurator, and prevents double instrumentation of a library."""

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002 - the base class passes them
        # Also with OTEL_SDK_DISABLED: other configurators would still create providers and threads.
        LlamaTelemetryConfigurator().name_itself()

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Load an instrumentor, unless another one of the same library is preferred.

        It does not raise, because OpenTelemetry would not load the remaining instrumentors.
        """
        if not sdk_disabled() and not LlamaTelemetryConfigurator().disabled:
            instrumentors.load(entry_point, os.environ, kwargs)
