"""Invalid values of OpenTelemetry's own environment variables, and what to use instead.

The SDK raises for some of these values, some of them when it is imported. The application would
get no telemetry at all, and in code an exception from `init()`. This module finds such values
before the SDK reads them. Each is logged once, and the default applies.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, NamedTuple

from llamatelemetry.config._option import USES_DEFAULT, Option
from llamatelemetry.config._parsers import (
    HEADERS,
    SAMPLING_RULES,
    SIGNALS,
    URL,
    ValueParser,
    choice,
    integer,
    milliseconds,
    number,
    parse_list,
)
from llamatelemetry.config._sources import warn_once

Environ = Mapping[str, str]


class Correction(NamedTuple):
    """What to use instead of a value.

    Attributes:
        value: Text to set; `None` to unset the variable.
        message: Warning; empty if the value means the same to users, such as another case.
    """

    value: str | None
    message: str = ""


def _plugin(group: str, *, is_list: bool = False, extra: tuple[str, ...] = ()) -> ValueParser:
    """Return a parser of names of entry points."""
    names = sorted({*(each.name for each in entry_points(group=group)), *extra})

    def parse(value: object) -> str:
        given = parse_list(value) if is_list else (str(value),)
        if not set(given) <= set(names):
            raise ValueError
        return str(value)

    listed = ", ".join(names) or "an installed one, and there are none"
    kind = "one or more of" if is_list else "one of"
    return ValueParser(f"{kind} {listed}", parse)


def _sampler() -> ValueParser:
    names = {each.name for each in entry_points(group="opentelemetry_traces_sampler")}

    def parse(value: object) -> str:
        text = str(value)
        is_rules = {name.lower() for name in parse_list(text)} <= set(SAMPLING_RULES)
        if text in names or is_rules:
            return text
        if text.lower() in names:
            return text.lower()
        raise ValueError

    return ValueParser(f"one of {', '.join(sorted(names | set(SAMPLING_RULES)))}", parse)


def _parse_file(value: object) -> str:
    try:
        with Path(str(value)).open("rb"):
            return str(value)
    except OSError:
        raise ValueError from None


_FILE: Final = ValueParser("a readable file", _parse_file)
_COUNT: Final = integer(1)
_INTERVAL: Final = milliseconds(1)
_LIMIT: Final = integer(0)
_SECONDS: Final = number(0.001)
_PER_SIGNAL: Final = ("", *(f"{signal.upper()}_" for signal in SIGNALS))
_LIMITS: Final = tuple(
    f"OTEL_{name}_LIMIT"
    for name in (
        *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "EVENT_ATTRIBUTE_COUNT"),
        *("LINK_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH"),
        *("LOGRECORD_ATTRIBUTE_COUNT", "LOGRECORD_ATTRIBUTE_VALUE_LENGTH"),
        *("SPAN_EVENT_COUNT", "SPAN_LINK_COUNT"),
    )
)
_GRPC_CODES: Final = (
    *("ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found"),
    *("already_exists", "permission_denied", "resource_exhausted", "failed_precondition"),
    *("aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss"),
    "unauthenticated",
)


def _grpc_codes(value: object) -> str:
    if not {name.lower() for name in parse_list(value)} <= set(_GRPC_CODES):
        raise ValueError
    return str(value)


def _pair(value: object) -> str:
    for item in parse_list(value):
        name, separator, _ = item.partition("=")
        if not name.strip() or not separator:
            raise ValueError
    return str(value)


_PAIRS: Final = ValueParser("key=value pairs, comma-separated", _pair)


def _per_signal(name: str) -> tuple[str, ...]:
    return tuple(f"OTEL_EXPORTER_OTLP_{signal}{name}" for signal in _PER_SIGNAL)


_HEADERS: Final = _per_signal("HEADERS")

# The parsers are created when needed: those of plugins read the installed distributions.
_PARSERS: Final[Mapping[str, Callable[[], ValueParser]]] = {
    **{
        f"OTEL_{processor}_{name}": lambda: _COUNT
        for processor in ("BSP", "BLRP")
        for name in ("EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
    },
    "OTEL_BSP_SCHEDULE_DELAY": lambda: _INTERVAL,
    "OTEL_BLRP_SCHEDULE_DELAY": lambda: _INTERVAL,
    **dict.fromkeys(_LIMITS, lambda: _LIMIT),
    **dict.fromkeys(_per_signal("TIMEOUT"), lambda: _SECONDS),
    **dict.fromkeys(_per_signal("ENDPOINT"), lambda: URL),
    **dict.fromkeys((*_per_signal("CERTIFICATE"), *_per_signal("CLIENT_KEY")), lambda: _FILE),
    **dict.fromkeys(_per_signal("CLIENT_CERTIFICATE"), lambda: _FILE),
    **dict.fromkeys(_per_signal("COMPRESSION"), lambda: choice("none", "gzip", "deflate")),
    **dict.fromkeys(_HEADERS, lambda: HEADERS),
    "OTEL_RESOURCE_ATTRIBUTES": lambda: _PAIRS,
    "OTEL_METRIC_EXPORT_INTERVAL": lambda: _INTERVAL,
    "OTEL_METRIC_EXPORT_TIMEOUT": lambda: number(1),
    "OTEL_METRICS_EXEMPLAR_FILTER": lambda: choice("trace_based", "always_on", "always_off"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": lambda: choice(
        "cumulative", "delta", "lowmemory"
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": lambda: choice(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
    ),
    "OTEL_EXPORTER_PROMETHEUS_PORT": lambda: integer(0),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": lambda: ValueParser(
        "gRPC status codes, comma-separated", _grpc_codes
    ),
    "OTEL_TRACES_SAMPLER": _sampler,
    "OTEL_PROPAGATORS": partial(_plugin, "opentelemetry_propagator", is_list=True, extra=("none",)),
    "OTEL_PYTHON_CONTEXT": partial(_plugin, "opentelemetry_context"),
    "OTEL_PYTHON_ID_GENERATOR": partial(_plugin, "opentelemetry_id_generator"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": partial(
        _plugin, "opentelemetry_resource_detector", is_list=True, extra=("*",)
    ),
    **{
        f"OTEL_PYTHON_{kind}_PROVIDER": partial(_plugin, f"opentelemetry_{kind.lower()}_provider")
        for kind in ("TRACER", "METER")
    },
    **{
        f"OTEL_PYTHON_{kind}_CONFIGURATOR": partial(
            _plugin, f"_opentelemetry_{kind.lower()}_configurator"
        )
        for kind in ("TRACER", "METER", "LOGGER")
    },
    **{
        f"OTEL_PYTHON_EXPORTER_OTLP_{name}CREDENTIAL_PROVIDER": partial(
            _plugin, "opentelemetry_otlp_credential_provider"
        )
        for transport in ("HTTP_", "GRPC_")
        for name in (transport, *(f"{transport}{signal.upper()}_" for signal in SIGNALS))
    },
}
_LISTS: Final = frozenset(
    {"OTEL_PROPAGATORS", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "OTEL_RESOURCE_ATTRIBUTES"}
).union(_HEADERS)
_READ_ON_IMPORT: Final = (
    *("OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
    *("OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"),
)
"""Variables that OpenTelemetry reads when it is imported; `llamatelemetry.__init__` lists them, too."""


def corrections(environ: Environ) -> dict[str, Correction]:
    """Return what to use instead of the values that the SDK would not accept, by variable."""
    # The SDK takes some values as they are, such as the "\r" of a file with Windows line ends.
    found = {
        name: Correction(text.strip())
        for name, text in environ.items()
        if name.startswith("OTEL_") and text != text.strip()
    }
    for name, create in _PARSERS.items():
        text = environ.get(name)
        if text is None:
            continue
        correction = _correction(name, text.strip(), create)
        if correction is not None:
            found[name] = correction
    return found | _sampler_argument(environ, found) | _batch_sizes(environ, found)


def _correction(name: str, text: str, create: Callable[[], ValueParser]) -> Correction | None:
    if not text:
        # OpenTelemetry's specification: an empty value equals an unset variable. The SDK does not
        # follow it. An empty limit is the SDK's own spelling of "no limit".
        return None if name in _LIMITS else Correction(None)
    parser = create()
    try:
        parsed = parser.parse(text)
    except (ValueError, OverflowError):
        valid = _valid_part(text, parser) if name in _LISTS else None
        is_secret = name in _HEADERS
        used = USES_DEFAULT if valid is None or is_secret else f"Using {valid}"
        problem = Option(parser, "", secret=is_secret).invalid_value_message(name, text)
        return Correction(valid, f"{problem}. {used}")
    if isinstance(parsed, int):
        parsed = str(parsed)
    return Correction(parsed) if isinstance(parsed, str) and parsed != text else None


def _valid_part(text: str, parser: ValueParser) -> str | None:
    """Return the valid names of a list, so that one unknown name does not disable the others."""
    valid: list[str] = []
    for name in parse_list(text):
        with suppress(ValueError):
            parser.parse(name)
            valid.append(name)
    return ",".join(valid) or None


_SAMPLER_ARGUMENTS: Final[Mapping[str, ValueParser]] = {
    **dict.fromkeys(
        ("traceidratio", "parentbased_traceidratio", "llamatelemetry_ratio"), number(0, 1)
    ),
    **dict.fromkeys(("llamatelemetry_only_slow", "llamatelemetry_only_errors_or_slow"), number(0)),
}


def _sampler_argument(environ: Environ, found: Mapping[str, Correction]) -> dict[str, Correction]:
    sampler = _effective("OTEL_TRACES_SAMPLER", environ, found)
    parser = _SAMPLER_ARGUMENTS.get(sampler)
    name, text = "OTEL_TRACES_SAMPLER_ARG", environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    rules = {rule.lower() for rule in parse_list(sampler)}
    if text and rules and rules <= set(SAMPLING_RULES):
        message = (
            f"Ignored {name}: the rules of OTEL_TRACES_SAMPLER={sampler} use "
            "LLAMATELEMETRY_SAMPLE_RATE and LLAMATELEMETRY_SLOW_THRESHOLD_S"
        )
        return {name: Correction(None, message)}
    if parser is None or not text:
        # The SDK logs a warning if its own ratio samplers have no argument.
        return {name: Correction("1.0")} if sampler.endswith("traceidratio") else {}
    try:
        parser.parse(text)
    except ValueError:
        value = "1.0" if sampler.endswith("traceidratio") else None
        message = f"{Option(parser, '').invalid_value_message(name, text)}. {USES_DEFAULT}"
        return {name: Correction(value, message)}
    return {}


def _batch_sizes(environ: Environ, found: Mapping[str, Correction]) -> dict[str, Correction]:
    """Limit batches to the size of their queue: the SDK raises if they are larger."""
    limited: dict[str, Correction] = {}
    for processor in ("BSP", "BLRP"):
        queue = f"OTEL_{processor}_MAX_QUEUE_SIZE"
        batch = f"OTEL_{processor}_MAX_EXPORT_BATCH_SIZE"
        queue_size = int(_effective(queue, environ, found) or 2048)
        given = _effective(batch, environ, found)
        if int(given or 512) > queue_size:
            message = (
                f"{batch} must be at most {queue} ({queue_size}), got {given}. Using {queue_size}"
            )
            limited[batch] = Correction(str(queue_size), message if given else "")
    return limited


def _effective(name: str, environ: Environ, found: Mapping[str, Correction]) -> str:
    return (found[name].value if name in found else environ.get(name, "").strip()) or ""


def corrected_variables(environ: Environ) -> dict[str, str | None]:
    """Return the values to set, `None` to unset, and log what is invalid."""
    found = corrections(environ)
    for correction in found.values():
        if correction.message:
            warn_once(correction.message)
    return {name: correction.value for name, correction in found.items()}


def without_invalid_values(environ: Environ) -> dict[str, str]:
    """Return the environment that the SDK gets. Logs nothing."""
    changed = {**environ, **{name: each.value for name, each in corrections(environ).items()}}
    return {name: text for name, text in changed.items() if text is not None}


@contextmanager
def environment(values: Mapping[str, str | None]) -> Generator[None]:
    """Set environment variables, or unset those that are `None`, within the `with` block."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_MODULES: Final = (
    *("opentelemetry.propagate", "opentelemetry.sdk.trace"),
    *("opentelemetry.sdk.metrics", "opentelemetry.sdk._logs"),
)


def import_opentelemetry() -> None:
    """Import the modules that read variables on import, so that they never see an invalid value.

    Does nothing if the values are valid.
    """
    found = corrected_variables(
        {name: os.environ[name] for name in _READ_ON_IMPORT if name in os.environ}
    )
    if not found:
        return
    with environment(found):
        for module in _MODULES:
            with suppress(ImportError):  # the SDK is optional
                importlib.import_module(module)
