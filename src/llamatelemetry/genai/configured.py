"""Instrumenters of plugins, and of objects that an application creates itself.

A plugin's instrumenter has the arguments of `instrument()`. That of an application's object
follows the configuration of `init()`, even if the object was created first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import FromActiveConfig
from llamatelemetry.genai.call import Instrumenter

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLUGIN_ARGUMENTS: Final = (
    *("tracer_provider", "meter_provider", "logger_provider"),
    *("completion_hook", "config"),
)


def plugin_instrumenter(scope: str, version: str, arguments: Mapping[str, Any]) -> Instrumenter:
    """Create the instrumenter of a plugin from the keyword arguments of its `instrument()`.

    These are `tracer_provider`, `meter_provider`, `logger_provider`, `completion_hook` and
    `config`, as `Instrumenter` describes them. Other arguments are ignored, because
    OpenTelemetry's loader passes the same arguments to all instrumentors.
    """
    known = {name: arguments[name] for name in _PLUGIN_ARGUMENTS if name in arguments}
    return Instrumenter(scope, version, **known)


class ConfiguredInstrumenter(FromActiveConfig[Instrumenter]):
    """The instrumenter of the active configuration, for code that is not a plugin.

    Args:
        scope: Instrumentation scope, the name of the package.
        version: Version of the package.
        own: Options that override the active configuration.
    """

    __slots__ = ()

    def __init__(self, scope: str, version: str, **own: Any) -> None:
        super().__init__(lambda config: Instrumenter(scope, version, config=config), **own)
        # Create it now, so that an invalid option raises here.
        self.get()
