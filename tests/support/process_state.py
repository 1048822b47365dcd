"""Reset what llamatelemetry keeps for the lifetime of a process and has no public function for."""

from __future__ import annotations

import contextlib
import importlib

from llamatelemetry.config import _sources
from llamatelemetry.distro import _instrumentors


def forget_logged_options() -> None:
    """Clear the record of logged warnings about options, so that each is logged again."""
    _sources._logged.clear()


def forget_entry_points() -> None:
    """Clear the caches of entry points, so that installed distributions are read again."""
    _instrumentors._all_entry_points.cache_clear()
    # OpenTelemetry's own loader has a cache, too, under a private name.
    with contextlib.suppress(ImportError, AttributeError):
        module = importlib.import_module("opentelemetry.util._importlib_metadata")
        module._original_entry_points_cached.cache_clear()
