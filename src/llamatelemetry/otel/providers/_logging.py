"""The stable logger provider and its loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import _logs as logs_api
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ._followers import Delegate
from ._provider import StableProvider

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes


class StableLogger(Delegate, logs_sdk.Logger):
    """A logger that outlives the SDK provider which made the real one."""

    def __init__(
        self,
        source: logs_api.LoggerProvider,
        scope: tuple[str, str | None, str | None, Attributes],
    ) -> None:
        # Not the base's: its attributes are the real logger's, see Delegate.
        self._scope = scope
        self.follow(source)

    def follow(self, source: logs_api.LoggerProvider) -> None:
        """Emits with a logger of this provider from now on."""
        self._real = source.get_logger(*self._scope)
        self.emit: Any = self._real.emit
        self.enabled = self._real.enabled


class StableLoggerProvider(
    StableProvider[logs_sdk.LoggerProvider, StableLogger], logs_sdk.LoggerProvider
):
    """The logger provider that OpenTelemetry's global is set to, once."""

    def __init__(self) -> None:
        super().__init__(logs_api.NoOpLoggerProvider())

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> logs_api.Logger:
        """A logger that goes on working when the SDK is replaced."""
        scope = (name, version, schema_url, attributes)

        # Attributes may hold anything, so only scopes without them are few for certain.
        return self._followers.get(
            InstrumentationScope(*scope),
            lambda source: StableLogger(source, scope),
            keep=not attributes,
        )

    @property
    def resource(self) -> Resource:
        """The resource of the SDK behind, else an empty one."""
        real = self._real
        return real.resource if real else Resource.get_empty()

    def add_log_record_processor(self, log_record_processor: logs_sdk.LogRecordProcessor) -> None:
        """Adds the processor to the SDK behind; it goes when that SDK goes."""
        if real := self._sdk_for(log_record_processor):
            real.add_log_record_processor(log_record_processor)

    def _set_logger_configurator(self, *, logger_configurator: Any) -> None:
        if real := self._real:
            real._set_logger_configurator(logger_configurator=logger_configurator)
