"""LlamaTelemetryConfig: every option, declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._environment import Given, nearest, read_environment
from ._option import Option, option, options_of
from ._otel_variables import (
    SIGNALS,
    exporter_from_otel,
    metric_names_from_otel,
    sampling_from_otel,
)
from ._values import (
    BOOLEAN,
    BOOLEAN_WORDS,
    EXPORTER,
    HEADERS,
    PATH,
    PATTERNS,
    SPAN_PROCESSORS,
    TEXT,
    TEXTS,
    URL,
    WEB_ADDRESSES,
    choice,
    integer,
    number,
    one_of,
    read_texts,
    sampling_of,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_SAMPLERS = tuple(
    f"{parent}{name}"
    for parent in ("", "parentbased_")
    for name in ("always_on", "always_off", "traceidratio")
)


# Somebody wanted redaction and made an error: rather too much of it than none.
REDACT_IF_REFUSED = "prompts and completions are redacted"


@dataclass(frozen=True, kw_only=True, repr=False)
class LlamaTelemetryConfig:
    """All options of llamatelemetry; a field that is None was not given.

    The types are those that `effective_config()` returns: it fills every option that has a
    default. Values are read on construction, so that text in the form of a variable is
    accepted too; a bad value is a ValueError.
    """

    service_name: str | None = option(
        TEXT,
        "SERVICE_NAME",
        "OTEL_SERVICE_NAME",
        default_text="as the SDK",
        doc="Name of the service on the resource",
    )
    service_version: str | None = option(
        TEXT, "SERVICE_VERSION", doc="Version of the service on the resource"
    )
    environment: str | None = option(
        TEXT,
        "ENVIRONMENT",
        doc="Deployment environment: `deployment.environment.name` on the resource",
    )
    otlp_endpoint: str | None = option(
        URL,
        "OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_text="as the SDK",
        doc="Where OTLP goes: a base URL, or the full URL of one signal",
    )
    otlp_protocol: str = option(
        choice("grpc", "http/protobuf"),
        None,
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_text="grpc when the endpoint's port is 4317, else http/protobuf",
        doc="How OTLP is sent",
    )
    otlp_headers: Mapping[str, str] | None = option(
        HEADERS,
        None,
        "OTEL_EXPORTER_OTLP_HEADERS",
        secret=True,
        in_hash=False,
        doc="Headers sent with each OTLP request",
    )
    exporter: str = option(
        EXPORTER,
        "EXPORTER",
        *(f"OTEL_{signal.upper()}_EXPORTER" for signal in SIGNALS),
        read_otel=exporter_from_otel,
        default="otlp",
        doc="Where telemetry goes; where the signals differ, `signal=names` for each",
    )
    export_path: str = option(
        PATH,
        "EXPORT_PATH",
        default="./llamatelemetry-data",
        doc="Folder of the file exporter: OTLP JSON lines, one file per signal and process",
    )
    export_interval_ms: int | None = option(
        integer(1),
        None,
        "OTEL_METRIC_EXPORT_INTERVAL",
        default_text="as the SDK",
        doc="Milliseconds between two exports of metrics",
    )
    enable_metrics: bool = option(
        BOOLEAN, "METRICS", default=True, doc="Whether metrics are recorded"
    )
    gpu_enrichment: bool | str = option(
        one_of(
            {**BOOLEAN_WORDS, "genai": "genai"},
            "true, genai or false",
            "bool | str",
        ),
        "GPU_ENRICHMENT",
        default=True,
        doc="Spans that get the state of the GPUs: all, GenAI spans only, or none",
    )
    gpu_interval_ms: int = option(
        integer(10),
        "GPU_INTERVAL_MS",
        default=1000,
        doc="Milliseconds between two readings of the GPUs while no local call is in flight",
    )
    enable_trace_graphs: bool = option(
        BOOLEAN,
        "TRACE_GRAPHS",
        default=False,
        doc="Keep the graph of each trace",
    )
    phase_spans: bool = option(
        BOOLEAN,
        "PHASE_SPANS",
        default=True,
        doc="Queue, prefill and decode as child spans when the engine reports them",
    )
    capture_content: str = option(
        choice("no_content", "span_only", "event_only", "span_and_event"),
        None,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        default="no_content",
        doc="Where prompts and completions are recorded",
    )
    content_max_chars: int = option(
        integer(1),
        "CONTENT_MAX_CHARS",
        default=16384,
        doc="Characters kept of each message part",
    )
    redact_prompts: bool = option(
        BOOLEAN,
        "REDACT_PROMPTS",
        if_refused=REDACT_IF_REFUSED,
        default=False,
        doc="Redact what is said to and by models and tools, and error texts",
    )
    redact_keys: Sequence[str] = option(
        TEXTS,
        "REDACT_KEYS",
        if_refused=REDACT_IF_REFUSED,
        default=(),
        doc="Attributes and fields of maps to redact, by name, exact or with `*`",
    )
    redact_patterns: Sequence[str] = option(
        PATTERNS,
        "REDACT_PATTERNS",
        if_refused=REDACT_IF_REFUSED,
        default=(),
        doc="Text to redact: `email`, `pii`, `secrets` and others by name, or regular expressions",
    )
    redact_mode: str = option(
        choice("replace", "hash"),
        "REDACT_MODE",
        if_refused=REDACT_IF_REFUSED,
        default="replace",
        doc="What redacted text becomes: a fixed text, or its HMAC with `redact_hash_key`",
    )
    redact_hash_key: str | None = option(
        TEXT,
        "REDACT_HASH_KEY",
        if_refused=REDACT_IF_REFUSED,
        secret=True,
        doc="Key for `redact_mode=hash`",
    )
    sampling: str = option(
        sampling_of(_SAMPLERS),
        "SAMPLING",
        "OTEL_TRACES_SAMPLER",
        read_otel=sampling_from_otel,
        default="parentbased_always_on",
        doc="Which traces are kept; only_errors and only_slow decide when the local root ends. "
        "Several rules keep what any of them keeps",
    )
    sample_rate: float = option(
        number(0, 1),
        "SAMPLE_RATE",
        default=1.0,
        doc="Share of traces that `ratio` keeps",
    )
    slow_threshold_s: float = option(
        number(0),
        "SLOW_THRESHOLD_S",
        default=5.0,
        doc="Seconds from which `only_slow` keeps a trace",
    )
    strict_operation_names: bool = option(
        BOOLEAN,
        "STRICT_OPERATION_NAMES",
        default=True,
        doc="`gen_ai.operation.name` only with well-known values",
    )
    metric_names: str = option(
        choice(
            "v1.41",
            "latest",
            "both",
            aliases={
                "gen_ai_latest_experimental": "latest",
                "gen_ai_latest_experimental/dup": "both",
            },
        ),
        "METRIC_NAMES",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        read_otel=metric_names_from_otel,
        default="v1.41",
        doc="Metric names of semantic conventions v1.41, the newest ones, or both",
    )
    provider_name: str | None = option(
        TEXT,
        "PROVIDER_NAME",
        default_text="detected",
        doc="`gen_ai.provider.name` of every call",
    )
    propagate: str = option(
        choice("auto", "on", "off"),
        "PROPAGATE",
        default="auto",
        doc="Put `traceparent` into requests; auto: unless it is there, an HTTP "
        "instrumentor is active, or OTEL_PROPAGATORS leaves it out",
    )
    instrumentors: str = option(
        choice("auto", "ours", "theirs", "all"),
        "INSTRUMENTORS",
        default="auto",
        doc="Which instrumentors load when another package instruments the same library",
    )
    llamacpp_allow: Sequence[str] = option(
        TEXTS,
        "LLAMACPP_ALLOW",
        default=(),
        doc="Origins known to be llama.cpp servers",
    )
    llamacpp_deny: Sequence[str] = option(
        TEXTS,
        "LLAMACPP_DENY",
        default=(),
        doc="Origins never taken for llama.cpp servers",
    )
    llamacpp_metrics_url: Sequence[str] = option(
        WEB_ADDRESSES,
        "LLAMACPP_METRICS_URL",
        default=(),
        doc="`/metrics` of llama.cpp servers to read into OTLP",
    )
    llamacpp_props: bool = option(
        BOOLEAN,
        "LLAMACPP_PROPS",
        default=False,
        doc="Send a `GET /props` to each llama.cpp server that the application calls, with the "
        "credentials of that call, to record the server's build, model file, context and slots",
    )
    log_level: str = option(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", aliases={"warn": "WARNING"}),
        "LOG_LEVEL",
        default="WARNING",
        doc="Level of the `llamatelemetry` loggers",
    )
    span_processors: Sequence[SpanProcessor] = option(
        SPAN_PROCESSORS,
        default=(),
        doc="Span processors that run before any exporter; in code only",
    )

    _origins: Mapping[str, str] = field(default_factory=dict[str, str], init=False, compare=False)

    def __post_init__(self) -> None:
        for name in OPTIONS:
            object.__setattr__(self, name, read_code(name, getattr(self, name)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> LlamaTelemetryConfig:
        """The options that the environment gives; the others stay None."""
        given, _ = read_environment(OPTIONS, os.environ if environ is None else environ)
        return built(given)

    def replace(self, **changes: Any) -> LlamaTelemetryConfig:
        """A copy with other values; None takes a value back. An unknown name is a TypeError.

        What follows from other options (`otlp_protocol`) is settled by `effective_config()`.
        """
        check_names(changes)
        kept = {n: g for n in OPTIONS if n not in changes and (g := self.given(n)) is not None}
        new = {
            n: Given(v, "config") for n in changes if (v := read_code(n, changes[n])) is not None
        }
        return built({**kept, **new})

    def given(self, name: str) -> Given | None:
        """A value with its origin: a variable, `argument`, `config` or `default`; or None."""
        value = getattr(self, name)
        return None if value is None else Given(value, self._origins.get(name, "config"))

    def exporters(self) -> dict[str, tuple[str, ...]]:
        """Exporter names of each signal; an empty tuple is a signal that is not exported."""
        text = self.exporter or str(OPTIONS["exporter"].default)
        by_signal = dict(part.split("=", 1) for part in text.split()) if "=" in text else {}
        named = {signal: read_texts(by_signal.get(signal, text)) for signal in SIGNALS}
        return {s: tuple(n for n in names if n.lower() != "none") for s, names in named.items()}

    def describe(self) -> str:
        """One line for each option: value and origin. Secrets are masked."""
        rows = [("option", "value", "from")]
        for name, declared in OPTIONS.items():
            given = self.given(name)
            shown = declared.default_doc if given is None else declared.shown(given.value)
            rows.append((name, shown, "default" if given is None else given.origin))
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{n:<{widths[0]}}  {v:<{widths[1]}}  {o}" for n, v, o in rows)

    def __repr__(self) -> str:
        shown = {
            name: declared.masked(repr(value))
            for name, declared in OPTIONS.items()
            if (value := getattr(self, name)) is not None
        }
        return f"{type(self).__name__}({', '.join(f'{n}={v}' for n, v in shown.items())})"


OPTIONS: Mapping[str, Option] = options_of(LlamaTelemetryConfig.__dataclass_fields__)
"""Every option by field name, in the order of the documentation."""


def read_code(name: str, value: object) -> object:
    """A value given in code, read; None and empty text mean not given."""
    if value is None or value == "":
        return None
    try:
        return OPTIONS[name].reader.read(value)
    except (ValueError, OverflowError):
        raise ValueError(OPTIONS[name].refusal(name, value)) from None


def check_names(given: Mapping[str, object]) -> None:
    """TypeError for a name that is no option."""
    for name in given:
        if name not in OPTIONS:
            raise TypeError(f"unknown option {name!r}; the nearest is {nearest(name, OPTIONS)!r}")


def built(given: Mapping[str, Given]) -> LlamaTelemetryConfig:
    """A config of values that are read already.

    Construction would refuse names that only OpenTelemetry's variables may give: other
    exporters, other samplers.
    """
    config = LlamaTelemetryConfig()
    for name, (value, _) in given.items():
        object.__setattr__(config, name, value)
    object.__setattr__(config, "_origins", {name: origin for name, (_, origin) in given.items()})
    return config
