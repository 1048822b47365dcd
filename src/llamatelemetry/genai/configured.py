"""An instrumenter for what an application makes itself, before or after it calls ``init()``."""

from __future__ import annotations

from typing import Any

from llamatelemetry.config import config_in_use, effective_config
from llamatelemetry.genai.call import Instrumenter


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
