"""Instrumenters of plugins, and of objects that an application creates itself.

A plugin's instrumenter has the arguments of `instrument()`. That of an application's object
follows the configuration of `init()`, even if the object was created first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import config_in_use, effective_config
from llamatelemetry.genai.call import Instrumenter

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLUGIN_ARGUMENTS: Final = (
    *("tracer_provider", "meter_provider", "logger_provider"),
    *("completion_hook", "config"),
)


def plugin_instrumenter(scope: str, version: str, arguments: Mapping[str, Any]) -> Instrumenter:
    """Create the instrumenter of a plugin from the keyword arguments of its `instrument()`.

    Other arguments than these five are ignored, because OpenTelemetry's loader passes the same
    arguments to all instrumentors.

    | Argument | Meaning |
    |---|---|
    | `tracer_provider` | Tracer provider; the global one by default |
    | `meter_provider` | Meter provider; the global one by default |
    | `logger_provider` | Logger provider for the events with content; the global one by default |
    | `completion_hook` | Hook that runs with each call's content, even if none is captured |
    | `config` | Options; read from the environment by default |

    The default hook is that of `OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK`.
    """
    known = {name: arguments[name] for name in _PLUGIN_ARGUMENTS if name in arguments}
    return Instrumenter(scope, version, **known)


class ConfiguredInstrumenter:
    """Holds the instrumenter of the effective configuration. Plugins have their own instead.

    Args:
        scope: Instrumentation scope, the name of the package.
        version: Version of the package.
        own: Options that override the configuration.
    """

    __slots__ = ("_in_use", "_instrumenter", "_own", "_scope", "_version")

    def __init__(self, scope: str, version: str, **own: Any) -> None:
        self._scope = scope
        self._version = version
        self._own = own
        self._in_use = config_in_use()
        self._instrumenter = self._create()

    def _create(self) -> Instrumenter:
        config = effective_config(self._in_use, **self._own)
        return Instrumenter(self._scope, self._version, config=config)

    def get(self) -> Instrumenter:
        """Return the instrumenter of the configuration that is effective now."""
        in_use = config_in_use()
        if in_use is not self._in_use:
            self._in_use = in_use
            self._instrumenter = self._create()
        return self._instrumenter
