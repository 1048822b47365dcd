"""The stable logger provider and its loggers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs as logs_api
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ._followers import Delegate, Followers

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

_logger = logging.getLogger("llamatelemetry.otel.providers")


class StableLogger(Delegate, logs_sdk.Logger):
    """A logger that outlives the SDK provider which made the real one."""

    def __init__(self, scope: tuple[str, str | None, str | None, Attributes]) -> None:
        # Not the base's: its attributes are the real logger's, see Delegate.
        self._scope = scope

    def follow(self, source: logs_api.LoggerProvider) -> None:
        """Emits with a logger of this provider from now on."""
        self._real = source.get_logger(*self._scope)
        self.emit: Any = self._real.emit
        self.enabled = self._real.enabled


class StableLoggerProvider(Delegate, logs_sdk.LoggerProvider):
    """The logger provider that OpenTelemetry's global is set to, once."""

    def __init__(self) -> None:
        # Not the base's, which would make a resource and an atexit handler.
        self._real: logs_sdk.LoggerProvider | None = None
        self._followers = Followers[logs_api.LoggerProvider, StableLogger](
            logs_api.NoOpLoggerProvider()
        )

    @property
    def sdk(self) -> logs_sdk.LoggerProvider | None:
        """The SDK provider behind this one, if any."""
        return self._real

    def attach(self, provider: logs_sdk.LoggerProvider) -> None:
        """Puts an SDK provider behind this one and all its loggers."""
        self._real = provider
        self._followers.follow(provider)

    def detach(self) -> logs_sdk.LoggerProvider | None:
        """Takes the SDK provider away, running."""
        real, self._real = self._real, None
        self._followers.follow(logs_api.NoOpLoggerProvider())
        return real

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> logs_api.Logger:
        """A logger that goes on working when the SDK is replaced."""
        scope = (name, version, schema_url, attributes)

        def make(source: logs_api.LoggerProvider) -> StableLogger:
            logger = StableLogger(scope)
            logger.follow(source)
            return logger

        # Attributes may hold anything, so only scopes without them are few for certain.
        return self._followers.get(InstrumentationScope(*scope), make, keep=not attributes)

    @property
    def resource(self) -> Resource:
        """The resource of the SDK behind, else an empty one."""
        real = self._real
        return real.resource if real else Resource.get_empty()

    def add_log_record_processor(self, log_record_processor: logs_sdk.LogRecordProcessor) -> None:
        """Adds the processor to the SDK behind; it goes when that SDK goes."""
        real = self._real
        if real is None:
            _logger.warning("No SDK is set up: %r was not added", log_record_processor)
            return
        real.add_log_record_processor(log_record_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flushes the SDK behind; nothing behind, nothing to flush."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self) -> None:
        """Shuts the SDK behind down; `init()` can put another one here."""
        if real := self.detach():
            real.shutdown()

    def _set_logger_configurator(self, *, logger_configurator: Any) -> None:
        if real := self._real:
            real._set_logger_configurator(logger_configurator=logger_configurator)

    def _update_resource(self, resource: Resource) -> None:
        if real := self._real:
            real._update_resource(resource)
