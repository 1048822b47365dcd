"""Invalid values of OpenTelemetry's variables: found, named, and replaced by the default."""

from __future__ import annotations

import pytest

from llamatelemetry.config.otel_variables import corrections, without_invalid_values

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


@pytest.mark.parametrize(("name", "value", "used"), INVALID)
def test_invalid_value_is_replaced_and_named_in_one_sentence(name, value, used):
    [(found, correction)] = corrections({name: value}).items()
    assert (found, correction.value) == (name, used)
    shown = "***" if name.endswith("HEADERS") else repr(value)
    assert correction.message.startswith(f"{name} must be ")
    assert f", got {shown}. Using " in correction.message


@pytest.mark.parametrize(
    ("environ", "used"),
    [
        ({"OTEL_BSP_MAX_QUEUE_SIZE": ""}, {}),  # the specification: equals unset
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}, {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "0"}, {"OTEL_SPAN_EVENT_COUNT_LIMIT": "0"}),
        (
            {"OTEL_METRICS_EXEMPLAR_FILTER": "ALWAYS_ON"},
            {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"},
        ),
        ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF"}, {"OTEL_TRACES_SAMPLER": "always_off"}),
        ({"OTEL_TRACES_SAMPLER": "only_errors"}, {"OTEL_TRACES_SAMPLER": "only_errors"}),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio"},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.0"},
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "100"},
            {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100"},
        ),
        ({"OTEL_PROPAGATORS": "none"}, {"OTEL_PROPAGATORS": "none"}),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
        ),
    ],
)
def test_valid_value_is_used_without_message(environ, used):
    assert without_invalid_values(environ) == used
    assert not any(each.message for each in corrections(environ).values())


@pytest.mark.parametrize(
    ("sampler", "argument", "accepted"),
    [
        ("traceidratio", "1.5", "number from 0 to 1"),
        ("parentbased_traceidratio", "half", "number from 0 to 1"),
        ("llamatelemetry_ratio", "-1", "number from 0 to 1"),
        ("llamatelemetry_only_slow", "soon", "number >= 0"),
    ],
)
def test_invalid_argument_of_sampler_is_replaced(sampler, argument, accepted):
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    [correction] = corrections(environ).values()
    assert correction.message == (
        f"OTEL_TRACES_SAMPLER_ARG must be {accepted}, got {argument!r}. Using the default"
    )


def test_batch_is_limited_to_size_of_its_queue():
    environ = {"OTEL_BLRP_MAX_QUEUE_SIZE": "100", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "200"}
    [correction] = corrections(environ).values()
    assert correction.value == "100"
    assert correction.message == (
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE must be at most OTEL_BLRP_MAX_QUEUE_SIZE (100), got 200. "
        "Using 100"
    )


def test_password_in_endpoint_is_masked():
    [correction] = corrections({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@"}).values()
    assert "secret" not in correction.message
