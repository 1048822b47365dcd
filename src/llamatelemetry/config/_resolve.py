"""The effective configuration from all sources, and the active one of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from llamatelemetry.config._config import (
    OPTIONS,
    REDACTS_PROMPTS,
    LlamaTelemetryConfig,
    build_config,
    check_names,
    parse_argument,
)
from llamatelemetry.config._option import PREFIX
from llamatelemetry.config._sources import OptionValue, read_environment, read_file, warn_once

_GRPC_PORT = 4317

T = TypeVar("T")


class _Active:
    config: LlamaTelemetryConfig | None = None


def set_active_config(config: LlamaTelemetryConfig | None) -> None:
    """Put a configuration in force for this process; `None` when nothing is set up any more."""
    _Active.config = config


def active_config(
    config: LlamaTelemetryConfig | None = None, **explicit: Any
) -> LlamaTelemetryConfig:
    """Return the configuration to use for a call, client, tracer or instrumentation.

    Args:
        config: Configuration from the caller. If `None`, the one that `llamatelemetry.init()` or
            the zero-code set-up has put in force, else that of the environment.
        **explicit: Options that override the configuration; `None` means not given.

    Raises:
        TypeError: An option is unknown; the message suggests the nearest name.
        ValueError: A value is invalid.
    """
    active = _Active.config
    if config is None and active is not None and not explicit:
        return active
    return effective_config(active if config is None else config, **explicit)


class FromActiveConfig(Generic[T]):
    """A value that is built from the active configuration, and rebuilt when that is replaced.

    `explicit` options override the active configuration.
    """

    __slots__ = ("_active", "_build", "_explicit", "_is_built", "_value")

    def __init__(self, build: Callable[[LlamaTelemetryConfig], T], **explicit: Any) -> None:
        self._build = build
        self._explicit = explicit
        self._active: LlamaTelemetryConfig | None = None
        self._is_built = False
        self._value: T

    def get(self) -> T:
        """Return the value for the configuration that is active now."""
        active = _Active.config
        if not self._is_built or active is not self._active:
            self._value = self._build(active_config(**self._explicit))
            self._active = active
            self._is_built = True
        return self._value


def effective_config(
    config: LlamaTelemetryConfig | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **explicit: Any,
) -> LlamaTelemetryConfig:
    """Resolve all options. Does not depend on the active configuration; see `active_config`.

    The order of precedence: `explicit`, `config`, `LLAMATELEMETRY_*`, the section
    `distribution: llamatelemetry:` of the file in `OTEL_CONFIG_FILE`, `OTEL_*`, defaults. `None`
    means not given. An invalid value outside of code is logged once and ignored.

    Args:
        config: Configuration from code. Values that it took from defaults do not override the
            environment.
        environ: Environment variables; those of the process if `None`.
        **explicit: Options that override `config`.

    Raises:
        TypeError: An explicit option is unknown; the message suggests the nearest name. Or
            `config` is no `LlamaTelemetryConfig`.
        ValueError: A value given in code is invalid.
    """
    # Callers may not check types.
    if not isinstance(config, LlamaTelemetryConfig | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"config must be a LlamaTelemetryConfig, not {type(config).__name__}. "
            "Pass single options by name, as in init(exporter='none')."
        )
    check_names(explicit)
    values = {
        n: OptionValue(o.default, "default") for n, o in OPTIONS.items() if o.default is not None
    }
    values |= _values_outside_code(os.environ if environ is None else environ)
    in_code = _values_in_code(config, explicit)
    values |= in_code
    _check_redact_mode(values, in_code)
    values.setdefault("otlp_protocol", OptionValue(_default_protocol(values), "default"))
    return build_config(values)


def _values_in_code(
    config: LlamaTelemetryConfig | None, explicit: Mapping[str, object]
) -> dict[str, OptionValue]:
    given = {} if config is None else {name: config.option_value(name) for name in OPTIONS}
    values = {n: v for n, v in given.items() if v is not None and v.origin != "default"}
    for name, argument in explicit.items():
        parsed = parse_argument(name, argument)
        if parsed is not None:
            values[name] = OptionValue(parsed, "argument")
    return values


def _values_outside_code(environ: Mapping[str, str]) -> dict[str, OptionValue]:
    # An invalid value must not activate the value of a source with lower precedence.
    from_environment, invalid = read_environment(OPTIONS, environ)
    from_file, invalid_in_file = read_file(OPTIONS, environ)
    own = {n: value for n, value in from_environment.items() if value.origin.startswith(PREFIX)}
    found = {
        **{n: value for n, value in from_environment.items() if n not in invalid_in_file},
        **{n: value for n, value in from_file.items() if n not in invalid},
        **own,
    }
    if any(OPTIONS[name].on_invalid == REDACTS_PROMPTS for name in invalid | invalid_in_file):
        found["redact_prompts"] = OptionValue(True, "invalid redaction option")
    return found


def sdk_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether `OTEL_SDK_DISABLED` is "true", in any case. No other value disables."""
    text = (os.environ if environ is None else environ).get("OTEL_SDK_DISABLED", "")
    return text.strip().lower() == "true"


def _check_redact_mode(values: dict[str, OptionValue], in_code: Mapping[str, OptionValue]) -> None:
    # Without a key, anyone can hash likely prompts and compare.
    if values["redact_mode"].value != "hash" or "redact_hash_key" in values:
        return
    problem = "redact_mode=hash needs redact_hash_key (LLAMATELEMETRY_REDACT_HASH_KEY)"
    if "redact_mode" in in_code:
        raise ValueError(problem)
    warn_once(f"{problem}. Using redact_mode=replace")
    values["redact_mode"] = OptionValue("replace", "default")


def _default_protocol(values: Mapping[str, OptionValue]) -> str:
    endpoint = str(values["otlp_endpoint"].value) if "otlp_endpoint" in values else ""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return "grpc" if parts.port == _GRPC_PORT else "http/protobuf"
