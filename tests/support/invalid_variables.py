"""OpenTelemetry's variables with values that the SDK would not accept."""

from __future__ import annotations

SIGNALS = ("", "TRACES_", "METRICS_", "LOGS_")

# Variable, invalid value, the value that is used instead.
INVALID = [
    *(
        (f"OTEL_{processor}_{name}", value, None)
        for processor in ("BSP", "BLRP")
        for name in ("SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
        for value in ("abc", "0", "-1", "1.5")
    ),
    *(
        (f"OTEL_{name}_LIMIT", value, None)
        for name in (
            *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "EVENT_ATTRIBUTE_COUNT"),
            *("LINK_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH"),
            *("LOGRECORD_ATTRIBUTE_COUNT", "LOGRECORD_ATTRIBUTE_VALUE_LENGTH"),
            *("SPAN_EVENT_COUNT", "SPAN_LINK_COUNT"),
        )
        for value in ("abc", "-1")
    ),
    *(
        (f"OTEL_EXPORTER_OTLP_{signal}{name}", value, None)
        for signal in SIGNALS
        for name, value in (
            *(("TIMEOUT", "abc"), ("TIMEOUT", "0"), ("TIMEOUT", "nan"), ("COMPRESSION", "zip")),
            *(("CERTIFICATE", "/none.pem"), ("CLIENT_KEY", "/none.pem")),
            *(("CLIENT_CERTIFICATE", "/none.pem"), ("ENDPOINT", "http://[::1")),
            ("HEADERS", "junk"),
        )
    ),
    # No request can have these headers.
    ("OTEL_EXPORTER_OTLP_HEADERS", "price=1%20%E2%82%AC,team=llm", "team=llm"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "my key=secret", None),
    ("OTEL_METRIC_EXPORT_INTERVAL", "0", None),
    ("OTEL_METRIC_EXPORT_INTERVAL", "abc", None),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "-1", None),
    ("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes", None),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "gamma", None),
    ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "none", None),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", "web", None),
    ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "teapot", None),
    ("OTEL_TRACES_SAMPLER", "always", None),
    ("OTEL_TRACES_SAMPLER", "only_errors,always_on", None),
    ("OTEL_PROPAGATORS", "b3", None),
    ("OTEL_PROPAGATORS", "b3,baggage", "baggage"),
    ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "moon, process", "process"),
    ("OTEL_RESOURCE_ATTRIBUTES", "junk,team=llm", "team=llm"),
    *(
        (f"OTEL_PYTHON_{name}", "nonesuch", None)
        for name in (
            *("CONTEXT", "ID_GENERATOR", "TRACER_PROVIDER", "METER_PROVIDER"),
            *("TRACER_CONFIGURATOR", "METER_CONFIGURATOR", "LOGGER_CONFIGURATOR"),
            *("EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER"),
            "EXPORTER_OTLP_HTTP_LOGS_CREDENTIAL_PROVIDER",
        )
    ),
]
