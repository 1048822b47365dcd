"""The distro: what `opentelemetry-instrument` runs first, and asks about every instrumentor."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from typing import Any

from opentelemetry.instrumentation.distro import BaseDistro

from llamatelemetry.config import sdk_disabled

from ._configurator import LlamaTelemetryConfigurator
from ._instrumentors import instrumentors


class LlamaTelemetryDistro(BaseDistro):
    """Sees to it that our configurator is the one, and that no library is instrumented twice."""

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002 - as the base has it
        # Also with OTEL_SDK_DISABLED: other configurators then still make providers and threads.
        LlamaTelemetryConfigurator().choose()

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Activates the instrumentor, unless another one of the same library is to be used.

        No failure comes out: OpenTelemetry would not load the instrumentors after it.
        """
        if not sdk_disabled() and not LlamaTelemetryConfigurator().disabled:
            instrumentors.load(entry_point, os.environ, kwargs)
