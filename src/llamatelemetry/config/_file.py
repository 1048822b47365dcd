"""Reads options from a declarative configuration file: its section for distributions.

    # OTEL_CONFIG_FILE
    distribution:
      llamatelemetry:
        sampling: only_errors
        redact_keys: [user.email, "*.secret"]

OpenTelemetry's schema keeps that section for the options of one distribution.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any, cast

from ._environment import OptionValue, nearest, warn_once
from ._option import Option

FROM_FILE = "configuration file"
"""The origin of such values."""

_SECTION = "llamatelemetry"
_logger = logging.getLogger("llamatelemetry.config")


def read_file(
    options: Mapping[str, Option], environ: Mapping[str, str]
) -> tuple[dict[str, OptionValue], frozenset[str]]:
    """The options given by the file that OTEL_CONFIG_FILE names, and those given but refused."""
    path = environ.get("OTEL_CONFIG_FILE", "").strip()
    given: dict[str, OptionValue] = {}
    refused: set[str] = set()
    for name, value in _section(path).items() if path else ():
        where = f"distribution.{_SECTION}.{name}"
        if name not in options or name == "span_processors":
            warn_once(f"{where} of {path} is not an option; {_advice(name, options)}")
            continue
        option = options[name]
        try:
            if value is not None and value != "":
                given[name] = OptionValue(option.reader.read(value), FROM_FILE)
        except (ValueError, OverflowError):
            warn_once(f"{option.refusal(where, value)}; {option.if_refused}")
            refused.add(name)
    return given, frozenset(refused)


def _advice(name: str, options: Mapping[str, Option]) -> str:
    if name in options:
        return f"{name} can be given in code only"
    return f"the nearest is {nearest(name, options)}"


def _section(path: str) -> Mapping[str, object]:
    try:
        modified_ns = os.stat(path).st_mtime_ns  # noqa: PTH116 - the path may be any text
    except (OSError, ValueError):
        return {}  # the SDK is set up by the same file, and says what is wrong with it
    return _load(path, modified_ns)


@functools.lru_cache(maxsize=4)
def _load(path: str, _modified_ns: int) -> Mapping[str, object]:
    try:
        # Optional, and it loads the SDK: only where a file is configured at all.
        declarative: Any = importlib.import_module("opentelemetry.configuration")
        sections: Any = declarative.load_config_file(path).distribution or {}
    except Exception as error:
        _logger.debug("%s was not read: %s", path, error)
        return {}
    return cast("Mapping[str, object]", sections.get(_SECTION) or {})
