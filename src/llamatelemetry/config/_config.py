"""`LlamaTelemetryConfig`, the declaration of all options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamatelemetry.config._option import Option, option, options_of
from llamatelemetry.config._parsers import (
    BOOLEAN,
    BOOLEAN_WORDS,
    EXPORTER,
    HEADERS,
    PATH,
    PATTERNS,
    SIGNALS,
    SPAN_PROCESSORS,
    TEXT,
    TEXTS,
    URL,
    WEB_ADDRESSES,
    choice,
    exporter_from_otel,
    integer,
    metric_names_from_otel,
    milliseconds,
    number,
    one_of,
    parse_list,
    sampling_from_otel,
    sampling_of,
)
from llamatelemetry.config._sources import OptionValue, nearest, read_environment

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_SAMPLERS = tuple(
    f"{parent}{name}"
    for parent in ("", "parentbased_")
    for name in ("always_on", "always_off", "traceidratio")
)

# Fail closed: an invalid redaction option redacts all prompts and completions.
REDACTS_PROMPTS = "Redacting all prompts and completions"


@dataclass(frozen=True, kw_only=True, repr=False)
class LlamaTelemetryConfig:
    """All options of llamatelemetry. A field that is `None` was not given.

    The annotated types are those after `llamatelemetry.init()` has filled in the defaults.
    Values are parsed on construction, so the text form of an environment variable works too.

    Raises:
        ValueError: A value is invalid.

    Examples:
        >>> from llamatelemetry import LlamaTelemetryConfig
        >>> config = LlamaTelemetryConfig.from_env({"LLAMATELEMETRY_SAMPLE_RATE": "0.1"})
        >>> config = config.replace(exporter="console", otlp_headers={"authorization": "Bearer abc"})
        >>> config.option_value("sample_rate")
        OptionValue(value=0.1, origin='LLAMATELEMETRY_SAMPLE_RATE')
        >>> config.exporters()["traces"], config.scraped_urls()
        (('console',), ())
        >>> for line in config.describe().splitlines()[:7]:
        ...     print(line)
        option           value                                                      source
        service_name     SDK default                                                default
        service_version  unset                                                      default
        environment      unset                                                      default
        otlp_endpoint    SDK default                                                default
        otlp_protocol    grpc when the endpoint's port is 4317, else http/protobuf  default
        otlp_headers     ***                                                        config
        >>> LlamaTelemetryConfig(sample_rate=2)
        Traceback (most recent call last):
        ValueError: sample_rate must be number from 0 to 1, got 2
    """

    service_name: str | None = option(
        TEXT,
        "SERVICE_NAME",
        "OTEL_SERVICE_NAME",
        default_text="SDK default",
        doc="Service name (`service.name` of the resource)",
    )
    service_version: str | None = option(
        TEXT, "SERVICE_VERSION", doc="Service version (`service.version` of the resource)"
    )
    environment: str | None = option(
        TEXT,
        "ENVIRONMENT",
        doc="Deployment environment (`deployment.environment.name` of the resource)",
    )
    otlp_endpoint: str | None = option(
        URL,
        "OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_text="SDK default",
        doc="OTLP endpoint: a base URL, or the full URL of one signal",
    )
    otlp_protocol: str = option(
        choice("grpc", "http/protobuf"),
        None,
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_text="grpc when the endpoint's port is 4317, else http/protobuf",
        doc="OTLP transport protocol",
    )
    otlp_headers: Mapping[str, str] | None = option(
        HEADERS,
        None,
        "OTEL_EXPORTER_OTLP_HEADERS",
        secret=True,
        in_hash=False,
        doc="Headers of each OTLP request",
    )
    exporter: str = option(
        EXPORTER,
        "EXPORTER",
        *(f"OTEL_{signal.upper()}_EXPORTER" for signal in SIGNALS),
        parse_otel=exporter_from_otel,
        default="otlp",
        doc="Exporters of all signals. `console` prints one line for each span, `console-json` the "
        "SDK's JSON; `OTEL_TRACES_EXPORTER=console` is the SDK's. If the signals differ, shown as "
        "`signal=names` for each",
    )
    export_path: str = option(
        PATH,
        "EXPORT_PATH",
        default="./llamatelemetry-data",
        doc="Directory of the file exporter: OTLP JSON lines, one file per signal and process",
    )
    export_interval_ms: int | None = option(
        milliseconds(1),
        None,
        "OTEL_METRIC_EXPORT_INTERVAL",
        default_text="SDK default",
        doc="Interval between metric exports, in milliseconds",
    )
    enable_metrics: bool = option(BOOLEAN, "METRICS", default=True, doc="Record metrics")
    gpu_enrichment: bool | str = option(
        one_of({**BOOLEAN_WORDS, "genai": "genai"}, "true, genai or false"),
        "GPU_ENRICHMENT",
        default=True,
        doc="Spans with GPU attributes: all, only GenAI spans, or none",
    )
    gpu_interval_ms: int = option(
        milliseconds(10),
        "GPU_INTERVAL_MS",
        default=1000,
        doc="Interval between GPU readings while no local call is in flight, in milliseconds",
    )
    enable_trace_graphs: bool = option(
        BOOLEAN, "TRACE_GRAPHS", default=False, doc="Keep a graph of each trace"
    )
    phase_spans: bool = option(
        BOOLEAN,
        "PHASE_SPANS",
        default=True,
        doc="Child spans for queue, prefill and decode if the engine reports them",
    )
    capture_content: str = option(
        choice("no_content", "span_only", "event_only", "span_and_event"),
        None,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        default="no_content",
        doc="Where to record prompts and completions",
    )
    content_max_chars: int = option(
        integer(1),
        "CONTENT_MAX_CHARS",
        default=16384,
        doc="Maximum length of each message part, in characters",
    )
    redact_prompts: bool = option(
        BOOLEAN,
        "REDACT_PROMPTS",
        on_invalid=REDACTS_PROMPTS,
        default=False,
        doc="Redact prompts, completions, tool arguments and results, and error messages",
    )
    redact_keys: Sequence[str] = option(
        TEXTS,
        "REDACT_KEYS",
        on_invalid=REDACTS_PROMPTS,
        default=(),
        doc="Names of attributes and of fields in maps to redact, exact or with `*`",
    )
    redact_patterns: Sequence[str] = option(
        PATTERNS,
        "REDACT_PATTERNS",
        on_invalid=REDACTS_PROMPTS,
        default=(),
        doc="Text to redact: pattern names such as `email`, `pii`, `secrets`, or regular expressions",
    )
    redact_mode: str = option(
        choice("replace", "hash"),
        "REDACT_MODE",
        on_invalid=REDACTS_PROMPTS,
        default="replace",
        doc="Replacement of redacted text: a fixed text, or its HMAC with `redact_hash_key`",
    )
    redact_hash_key: str | None = option(
        TEXT,
        "REDACT_HASH_KEY",
        on_invalid=REDACTS_PROMPTS,
        secret=True,
        doc="Key for `redact_mode=hash`",
    )
    sampling: str = option(
        sampling_of(_SAMPLERS),
        "SAMPLING",
        "OTEL_TRACES_SAMPLER",
        parse_otel=sampling_from_otel,
        default="parentbased_always_on",
        doc="Sampler or sampling rules. `only_errors` and `only_slow` decide when the local root span "
        "ends. A trace is kept if any rule keeps it",
    )
    sample_rate: float = option(
        number(0, 1), "SAMPLE_RATE", default=1.0, doc="Fraction of traces that `ratio` keeps"
    )
    slow_threshold_s: float = option(
        number(0),
        "SLOW_THRESHOLD_S",
        default=5.0,
        doc="Minimum duration of traces that `only_slow` keeps, in seconds",
    )
    strict_operation_names: bool = option(
        BOOLEAN,
        "STRICT_OPERATION_NAMES",
        default=True,
        doc="Restrict `gen_ai.operation.name` to well-known values",
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
        parse_otel=metric_names_from_otel,
        default="v1.41",
        doc="Metric names: those of semantic conventions v1.41, the newest, or both",
    )
    provider_name: str | None = option(
        TEXT,
        "PROVIDER_NAME",
        default_text="detected",
        doc="Value of `gen_ai.provider.name` for all calls",
    )
    propagate: str = option(
        choice("auto", "on", "off"),
        "PROPAGATE",
        default="auto",
        doc="Add `traceparent` to requests. `auto`: unless the header is present, an HTTP "
        "instrumentor records the URL, or `OTEL_PROPAGATORS` excludes it",
    )
    propagate_hosts: Sequence[str] = option(
        TEXTS,
        "PROPAGATE_HOSTS",
        default=(),
        default_text="all hosts",
        doc="Hosts that `traceparent` is sent to, exact or with `*`. The HTTP library keeps the "
        "header if such a host redirects the request",
    )
    response_headers: Sequence[str] = option(
        TEXTS,
        "RESPONSE_HEADERS",
        default=(),
        doc="Response headers to record as `http.response.header.<name>`, exact or with `*`, such as "
        "`x-request-id,x-ratelimit-*`",
    )
    stream_usage: bool = option(
        BOOLEAN,
        "STREAM_USAGE",
        default=False,
        doc="Add `stream_options.include_usage` to streams of the openai client that do not set it. "
        "The application does not see the additional chunk. Some older servers reject the option",
    )
    instrumentors: str = option(
        choice("auto", "ours", "theirs", "all"),
        "INSTRUMENTORS",
        default="auto",
        doc="Instrumentors to load if another package instruments the same library",
    )
    llamacpp_allow: Sequence[str] = option(
        TEXTS, "LLAMACPP_ALLOW", default=(), doc="Origins to treat as llama.cpp servers"
    )
    llamacpp_deny: Sequence[str] = option(
        TEXTS, "LLAMACPP_DENY", default=(), doc="Origins never to treat as inference servers"
    )
    server_metrics_urls: Sequence[str] = option(
        WEB_ADDRESSES,
        "SERVER_METRICS_URLS",
        default=(),
        doc="URLs of the metrics of inference servers to scrape, such as `http://host:8000/metrics`",
    )
    llamacpp_metrics_url: Sequence[str] = option(
        WEB_ADDRESSES,
        "LLAMACPP_METRICS_URL",
        default=(),
        doc="Older name of `server_metrics_urls`. The URLs of both options are scraped",
    )
    llamacpp_props: bool = option(
        BOOLEAN,
        "LLAMACPP_PROPS",
        default=False,
        doc="Send a `GET /props` to each llama.cpp server that the application calls, with the "
        "credentials of that call, to record the server's build, model file, context and slots",
    )
    engine_latency_names: bool = option(
        BOOLEAN,
        "ENGINE_LATENCY_NAMES",
        default=False,
        doc="Also record the engine's figures as `gen_ai.latency.*`, as engines do on their own spans",
    )
    diagnostics: bool = option(
        BOOLEAN,
        "DIAGNOSTICS",
        default=False,
        doc="Record what explains a slow call: times at the client, delays of the event loop, which "
        "part of the prompt changed, and the CPU time of a server on this machine. "
        "`llamatelemetry run` turns it on",
    )
    prompt_sections: bool = option(
        BOOLEAN,
        "PROMPT_SECTIONS",
        default=True,
        doc="With `diagnostics`, record a keyed hash and the length of each section of a prompt",
    )
    flush_on_signal: bool = option(
        BOOLEAN,
        "FLUSH_ON_SIGNAL",
        default=True,
        doc="Flush before the default action of SIGTERM, SIGHUP or SIGINT ends the process",
    )
    log_level: str = option(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", aliases={"warn": "WARNING"}),
        "LOG_LEVEL",
        default="WARNING",
        doc="Log level of the `llamatelemetry` loggers",
    )
    span_processors: Sequence[SpanProcessor] = option(
        SPAN_PROCESSORS, default=(), doc="Span processors that run before any exporter"
    )

    _origins: Mapping[str, str] = field(default_factory=dict[str, str], init=False, compare=False)

    def __post_init__(self) -> None:
        for name in OPTIONS:
            object.__setattr__(self, name, parse_argument(name, getattr(self, name)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> LlamaTelemetryConfig:
        """Return the options that the environment sets. All others are `None`."""
        values, _ = read_environment(OPTIONS, os.environ if environ is None else environ)
        return build_config(values)

    def replace(self, **changes: Any) -> LlamaTelemetryConfig:
        """Return a copy with other values. `None` unsets an option.

        Defaults that depend on other options, such as `otlp_protocol`, are not derived again.

        Raises:
            TypeError: An option is unknown; the message suggests the nearest name.
            ValueError: A value is invalid.
        """
        check_names(changes)
        values = {name: self.option_value(name) for name in OPTIONS if name not in changes}
        for name, given in changes.items():
            value = parse_argument(name, given)
            values[name] = None if value is None else OptionValue(value, "config")
        return build_config({name: value for name, value in values.items() if value is not None})

    def option_value(self, name: str) -> OptionValue | None:
        """Return the value of an option with its origin, `None` if it is not given."""
        value = getattr(self, name)
        return None if value is None else OptionValue(value, self._origins.get(name, "config"))

    def scraped_urls(self) -> tuple[str, ...]:
        """Return the URLs of servers to scrape, each one once; none if metrics are off."""
        urls = (*(self.server_metrics_urls or ()), *(self.llamacpp_metrics_url or ()))
        return tuple(dict.fromkeys(urls)) if self.enable_metrics is not False else ()

    def exporters(self) -> dict[str, tuple[str, ...]]:
        """Return the exporter names of each signal, an empty tuple if it is not exported."""
        text = self.exporter or str(OPTIONS["exporter"].default)
        by_signal = dict(part.split("=", 1) for part in text.split()) if "=" in text else {}
        named = {signal: parse_list(by_signal.get(signal, text)) for signal in SIGNALS}
        return {s: tuple(n for n in names if n.lower() != "none") for s, names in named.items()}

    def describe(self) -> str:
        """Return a table of all options with value and source. Secrets are masked."""
        rows = [("option", "value", "source")]
        for name, declared in OPTIONS.items():
            given = self.option_value(name)
            shown = declared.default_doc if given is None else declared.shown(given.value)
            rows.append((name, shown, "default" if given is None else given.origin))
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{n:<{widths[0]}}  {v:<{widths[1]}}  {o}" for n, v, o in rows)

    def __repr__(self) -> str:
        shown = {
            name: declared.described(value)
            for name, declared in OPTIONS.items()
            if (value := getattr(self, name)) is not None
        }
        return f"{type(self).__name__}({', '.join(f'{n}={v}' for n, v in shown.items())})"


OPTIONS: Mapping[str, Option] = options_of(LlamaTelemetryConfig.__dataclass_fields__)
"""All options by field name, in the order of the documentation."""


def parse_argument(name: str, value: object) -> object:
    """Parse a value given in code. `None` and empty text mean not given."""
    if value is None or value == "":
        return None
    try:
        return OPTIONS[name].parser.parse(value)
    except (ValueError, OverflowError):
        raise ValueError(OPTIONS[name].invalid_value_message(name, value)) from None


def check_names(given: Mapping[str, object]) -> None:
    """Raise `TypeError` for a name that is not an option."""
    for name in given:
        if name not in OPTIONS:
            raise TypeError(f"Unknown option {name!r}. Did you mean {nearest(name, OPTIONS)!r}?")


def build_config(values: Mapping[str, OptionValue]) -> LlamaTelemetryConfig:
    """Return a configuration of parsed values.

    The constructor would reject names that only OpenTelemetry's variables accept: other
    exporters and samplers.
    """
    config = LlamaTelemetryConfig()
    for name, (value, _) in values.items():
        object.__setattr__(config, name, value)
    object.__setattr__(config, "_origins", {name: origin for name, (_, origin) in values.items()})
    return config
