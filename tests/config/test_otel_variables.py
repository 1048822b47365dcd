"""Invalid values of OpenTelemetry's variables: found, named, and replaced by the default."""

from __future__ import annotations

import sys
import threading

import pytest

from llamatelemetry.config.otel_variables import corrections, without_invalid_values
from tests.support.invalid_variables import INVALID

LONGEST_MS = f"{threading.TIMEOUT_MAX * 1000:.0f}"


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
        # With more, `start_span` would raise, or the set-up would fail.
        (
            {"OTEL_SPAN_EVENT_COUNT_LIMIT": str(2**64 - 1)},
            {"OTEL_SPAN_EVENT_COUNT_LIMIT": str(sys.maxsize)},
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": str(2**64 - 1)},
            {"OTEL_BSP_MAX_QUEUE_SIZE": str(sys.maxsize)},
        ),
        # A thread that waits for longer would end, and nothing would be exported.
        ({"OTEL_BSP_SCHEDULE_DELAY": str(sys.maxsize)}, {"OTEL_BSP_SCHEDULE_DELAY": LONGEST_MS}),
        (
            {"OTEL_METRIC_EXPORT_INTERVAL": str(sys.maxsize)},
            {"OTEL_METRIC_EXPORT_INTERVAL": LONGEST_MS},
        ),
        # A file with Windows line ends leaves "\r" behind each value.
        (
            {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on\r"},
            {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"},
        ),
        ({"OTEL_TRACES_SAMPLER": "always_off\r"}, {"OTEL_TRACES_SAMPLER": "always_off"}),
        ({"OTEL_EXPORTER_OTLP_INSECURE": " true "}, {"OTEL_EXPORTER_OTLP_INSECURE": "true"}),
        ({"OTEL_CONFIG_FILE": " "}, {"OTEL_CONFIG_FILE": ""}),
        ({"OTHER": " text "}, {"OTHER": " text "}),
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


def test_argument_is_ignored_with_message_when_sampler_is_a_rule():
    environ = {"OTEL_TRACES_SAMPLER": "ratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    [correction] = corrections(environ).values()
    assert correction.message == (
        "Ignored OTEL_TRACES_SAMPLER_ARG: the rules of OTEL_TRACES_SAMPLER=ratio use "
        "LLAMATELEMETRY_SAMPLE_RATE and LLAMATELEMETRY_SLOW_THRESHOLD_S"
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
