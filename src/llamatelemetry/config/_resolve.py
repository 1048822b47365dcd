"""effective_config: all sources in their order of precedence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ._config import OPTIONS, REDACT_IF_REFUSED, LlamaTelemetryConfig, built, check_names, read_code
from ._environment import OptionValue, is_ours, read_environment, warn_once
from ._file import read_file

_GRPC_PORT = 4317


def effective_config(
    config: LlamaTelemetryConfig | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **explicit: Any,
) -> LlamaTelemetryConfig:
    """The options in force: explicit, config, `LLAMATELEMETRY_*`, the file, `OTEL_*`, defaults.

    The file is that of OTEL_CONFIG_FILE, in its section `distribution: llamatelemetry:`.

    None is not given. A bad value in the environment is one warning; a bad value in code is a
    ValueError, an unknown explicit option a TypeError that names the nearest. Defaults in an
    already effective `config` do not hide the environment.
    """
    check_names(explicit)
    in_code = {**_given_by(config), **_given_explicitly(explicit)}
    outside = _given_outside(os.environ if environ is None else environ)
    given = {**_defaults(), **outside, **in_code}
    _settle_redact_mode(given, in_code)
    given.setdefault("otlp_protocol", OptionValue(_default_protocol(given), "default"))
    return built(given)


def _given_outside(environ: Mapping[str, str]) -> dict[str, OptionValue]:
    """What variables and the file give. A refused value does not bring the next source's back."""
    from_environment, refused = read_environment(OPTIONS, environ)
    from_file, refused_in_file = read_file(OPTIONS, environ)
    ours = {name: given for name, given in from_environment.items() if is_ours(given)}
    found = {
        **{n: g for n, g in from_environment.items() if n not in refused_in_file},
        **{n: g for n, g in from_file.items() if n not in refused},
        **ours,
    }
    if any(OPTIONS[name].if_refused == REDACT_IF_REFUSED for name in refused | refused_in_file):
        found["redact_prompts"] = OptionValue(True, "a bad redaction option")
    return found


def sdk_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether OTEL_SDK_DISABLED asks for no telemetry: only "true" does, in any case."""
    text = (os.environ if environ is None else environ).get("OTEL_SDK_DISABLED", "")
    return text.strip().lower() == "true"


def _defaults() -> dict[str, OptionValue]:
    return {
        n: OptionValue(o.default, "default") for n, o in OPTIONS.items() if o.default is not None
    }


def _given_by(config: LlamaTelemetryConfig | None) -> dict[str, OptionValue]:
    if config is None:
        return {}
    found = {name: config.option_value(name) for name in OPTIONS}
    return {n: g for n, g in found.items() if g is not None and g.origin != "default"}


def _given_explicitly(explicit: Mapping[str, object]) -> dict[str, OptionValue]:
    read = {name: read_code(name, value) for name, value in explicit.items()}
    return {n: OptionValue(value, "argument") for n, value in read.items() if value is not None}


def _settle_redact_mode(given: dict[str, OptionValue], in_code: Mapping[str, OptionValue]) -> None:
    # A hash without a key can be guessed from a list of likely prompts.
    if given["redact_mode"].value != "hash" or "redact_hash_key" in given:
        return
    problem = "redact_mode=hash needs redact_hash_key (LLAMATELEMETRY_REDACT_HASH_KEY)"
    if "redact_mode" in in_code:
        raise ValueError(problem)
    warn_once(f"{problem}; redact_mode=replace is used")
    given["redact_mode"] = OptionValue("replace", "default")


def _default_protocol(given: Mapping[str, OptionValue]) -> str:
    endpoint = str(given["otlp_endpoint"].value) if "otlp_endpoint" in given else ""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return "grpc" if parts.port == _GRPC_PORT else "http/protobuf"
