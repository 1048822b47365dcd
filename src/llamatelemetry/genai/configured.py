"""Where an instrumenter comes from: a plugin's from what ``instrument()`` is given.

That of what an application makes itself follows ``init()``, whichever of the two is first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import config_in_use, effective_config
from llamatelemetry.genai.call import Instrumenter

if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_A_PLUGIN: Final = (
    *("tracer_provider", "meter_provider", "logger_provider"),
    *("completion_hook", "config"),
)


def plugin_instrumenter(scope: str, version: str, arguments: Mapping[str, Any]) -> Instrumenter:
    """Make the instrumenter of a plugin from the keyword arguments of its ``instrument()``.

    Others than these five are left alone: OpenTelemetry's loader gives all instrumentors the
    same ones.

    ====================  =====================================================================
    ``tracer_provider``   OpenTelemetry's global one when not given
    ``meter_provider``    likewise
    ``logger_provider``   likewise; for the events that hold content
    ``completion_hook``   run with the content of each call, whether or not content is captured;
                          that of OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK when not given
    ``config``            options; read from the environment when not given
    ====================  =====================================================================
    """
    ours = {name: arguments[name] for name in _OF_A_PLUGIN if name in arguments}
    return Instrumenter(scope, version, **ours)


class ConfiguredInstrumenter:
    """Gives the instrumenter of the configuration in force. A plugin is handed its own instead.

    Args:
        scope: instrumentation scope, the name of the package.
        version: its version.
        own: options that count here whatever the configuration says.
    """

    __slots__ = ("_in_use", "_instrumenter", "_own", "_scope", "_version")

    def __init__(self, scope: str, version: str, **own: Any) -> None:
        self._scope = scope
        self._version = version
        self._own = own
        self._in_use = config_in_use()
        self._instrumenter = self._make()

    def _make(self) -> Instrumenter:
        config = effective_config(self._in_use, **self._own)
        return Instrumenter(self._scope, self._version, config=config)

    def get(self) -> Instrumenter:
        """Give the instrumenter to use now."""
        in_use = config_in_use()
        if in_use is not self._in_use:
            self._in_use = in_use
            self._instrumenter = self._make()
        return self._instrumenter
