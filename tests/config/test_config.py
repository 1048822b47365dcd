"""All options: their sources, precedence, defaults, parsing and invalid values."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.config import (
    OPTIONS,
    FromActiveConfig,
    LlamaTelemetryConfig,
    _sources,
    active_config,
    effective_config,
    sdk_disabled,
    set_active_config,
)
from llamatelemetry.genai import plugin_instrumenter


@pytest.fixture(autouse=True)
def no_warnings_logged_before(monkeypatch):
    monkeypatch.setattr(_sources, "_logged", {})


class Case(NamedTuple):
    """One option: its default, and a different value for each source."""

    default: Any
    argument: Any
    config: Any
    own: tuple[str, str, Any] | None = None
    otel: tuple[str, str, Any] | None = None


FIRST, SECOND = SpanProcessor(), SpanProcessor()

CASES = {
    "service_name": Case(
        None, "a", "b", ("LLAMATELEMETRY_SERVICE_NAME", "c", "c"), ("OTEL_SERVICE_NAME", "d", "d")
    ),
    "service_version": Case(None, "1", "2", ("LLAMATELEMETRY_SERVICE_VERSION", "3", "3")),
    "environment": Case(None, "a", "b", ("LLAMATELEMETRY_ENVIRONMENT", "c", "c")),
    "otlp_endpoint": Case(
        None,
        "http://a:1",
        "http://b:2",
        ("LLAMATELEMETRY_OTLP_ENDPOINT", "http://c:3", "http://c:3"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://d:4", "http://d:4"),
    ),
    "otlp_protocol": Case(
        "http/protobuf",
        "grpc",
        "http/protobuf",
        otel=("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc"),
    ),
    "otlp_headers": Case(
        None, {"a": "1"}, {"b": "2"}, otel=("OTEL_EXPORTER_OTLP_HEADERS", "c=3", {"c": "3"})
    ),
    "exporter": Case(
        "otlp",
        "console",
        "file",
        ("LLAMATELEMETRY_EXPORTER", "none", "none"),
        (
            "OTEL_TRACES_EXPORTER",
            "console",
            "traces=console metrics=otlp logs=otlp",
        ),
    ),
    "export_path": Case(
        "./llamatelemetry-data", "a", "b", ("LLAMATELEMETRY_EXPORT_PATH", "c", "c")
    ),
    "export_interval_ms": Case(None, 1, 2, otel=("OTEL_METRIC_EXPORT_INTERVAL", "3", 3)),
    "enable_metrics": Case(True, False, True, ("LLAMATELEMETRY_METRICS", "false", False)),
    "gpu_enrichment": Case(True, False, True, ("LLAMATELEMETRY_GPU_ENRICHMENT", "genai", "genai")),
    "gpu_interval_ms": Case(1000, 10, 20, ("LLAMATELEMETRY_GPU_INTERVAL_MS", "30", 30)),
    "enable_trace_graphs": Case(False, True, False, ("LLAMATELEMETRY_TRACE_GRAPHS", "true", True)),
    "phase_spans": Case(True, False, True, ("LLAMATELEMETRY_PHASE_SPANS", "false", False)),
    "capture_content": Case(
        "no_content",
        "span_only",
        "event_only",
        otel=(
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
            "SPAN_AND_EVENT",
            "span_and_event",
        ),
    ),
    "content_max_chars": Case(16384, 1, 2, ("LLAMATELEMETRY_CONTENT_MAX_CHARS", "3", 3)),
    "redact_prompts": Case(False, True, False, ("LLAMATELEMETRY_REDACT_PROMPTS", "true", True)),
    "redact_keys": Case((), ("a",), ("b",), ("LLAMATELEMETRY_REDACT_KEYS", "c, d", ("c", "d"))),
    "redact_patterns": Case(
        (), ("a+",), ("b+",), ("LLAMATELEMETRY_REDACT_PATTERNS", r"\d{3,4}", (r"\d{3,4}",))
    ),
    "redact_mode": Case(
        "replace", "hash", "replace", ("LLAMATELEMETRY_REDACT_MODE", "hash", "hash")
    ),
    "redact_hash_key": Case(None, "a", "b", ("LLAMATELEMETRY_REDACT_HASH_KEY", "c", "c")),
    "sampling": Case(
        "parentbased_always_on",
        "ratio",
        "only_errors",
        ("LLAMATELEMETRY_SAMPLING", "only_slow", "only_slow"),
        ("OTEL_TRACES_SAMPLER", "xray", "xray"),
    ),
    "sample_rate": Case(1.0, 0.1, 0.2, ("LLAMATELEMETRY_SAMPLE_RATE", "0.3", 0.3)),
    "slow_threshold_s": Case(5.0, 1.0, 2.0, ("LLAMATELEMETRY_SLOW_THRESHOLD_S", "3", 3.0)),
    "strict_operation_names": Case(
        True, False, True, ("LLAMATELEMETRY_STRICT_OPERATION_NAMES", "false", False)
    ),
    "metric_names": Case(
        "v1.41",
        "latest",
        "both",
        ("LLAMATELEMETRY_METRIC_NAMES", "v1.41", "v1.41"),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,gen_ai_latest_experimental", "latest"),
    ),
    "provider_name": Case(None, "a", "b", ("LLAMATELEMETRY_PROVIDER_NAME", "c", "c")),
    "propagate": Case("auto", "on", "off", ("LLAMATELEMETRY_PROPAGATE", "on", "on")),
    "propagate_hosts": Case((), ("a",), ("b",), ("LLAMATELEMETRY_PROPAGATE_HOSTS", "c", ("c",))),
    "response_headers": Case((), ("a",), ("b",), ("LLAMATELEMETRY_RESPONSE_HEADERS", "c", ("c",))),
    "stream_usage": Case(False, True, False, ("LLAMATELEMETRY_STREAM_USAGE", "yes", True)),
    "instrumentors": Case("auto", "ours", "theirs", ("LLAMATELEMETRY_INSTRUMENTORS", "all", "all")),
    "llamacpp_allow": Case((), ("a",), ("b",), ("LLAMATELEMETRY_LLAMACPP_ALLOW", "c", ("c",))),
    "llamacpp_deny": Case((), ("a",), ("b",), ("LLAMATELEMETRY_LLAMACPP_DENY", "c", ("c",))),
    "server_metrics_urls": Case(
        (),
        ("http://a/metrics",),
        ("http://b/metrics",),
        (
            "LLAMATELEMETRY_SERVER_METRICS_URLS",
            "http://c:1/prometheus/metrics,http://c:2/v1/metrics",
            ("http://c:1/prometheus/metrics", "http://c:2/v1/metrics"),
        ),
    ),
    "llamacpp_metrics_url": Case(
        (),
        ("http://a/metrics",),
        ("http://b/metrics",),
        (
            "LLAMATELEMETRY_LLAMACPP_METRICS_URL",
            "http://c:1/metrics,http://c:2/metrics",
            ("http://c:1/metrics", "http://c:2/metrics"),
        ),
    ),
    "llamacpp_props": Case(False, True, False, ("LLAMATELEMETRY_LLAMACPP_PROPS", "true", True)),
    "engine_latency_names": Case(
        False, True, False, ("LLAMATELEMETRY_ENGINE_LATENCY_NAMES", "true", True)
    ),
    "diagnostics": Case(False, True, False, ("LLAMATELEMETRY_DIAGNOSTICS", "true", True)),
    "prompt_sections": Case(True, False, True, ("LLAMATELEMETRY_PROMPT_SECTIONS", "off", False)),
    "flush_on_signal": Case(True, False, True, ("LLAMATELEMETRY_FLUSH_ON_SIGNAL", "false", False)),
    "log_level": Case("WARNING", "DEBUG", "INFO", ("LLAMATELEMETRY_LOG_LEVEL", "error", "ERROR")),
    "span_processors": Case((), (FIRST,), (SECOND,)),
}

# `hash` without a key is rejected: see test_hash_mode_needs_key.
KEY = {"LLAMATELEMETRY_REDACT_HASH_KEY": "k"}


def test_cases_cover_every_option():
    assert list(CASES) == list(OPTIONS)
    assert list(OPTIONS) == [
        f.name for f in dataclasses.fields(LlamaTelemetryConfig) if f.name != "_origins"
    ]


def config_file(folder: Path, **options: Any) -> dict[str, str]:
    """Write a declarative file with these options. Return the variable that names it."""
    path = folder / "otel.yaml"
    # JSON is valid YAML.
    path.write_text(
        json.dumps({"file_format": "1.0", "distribution": {"llamatelemetry": options}}),
    )
    return {"OTEL_CONFIG_FILE": str(path)}


@pytest.mark.parametrize("name", CASES)
def test_option_is_read_from_every_source_in_order_of_precedence(name, tmp_path):
    case = CASES[name]
    config = LlamaTelemetryConfig(**{name: case.config})
    environ = dict(KEY) if name == "redact_mode" else {}

    def check(expected, origin, **arguments):
        effective = effective_config(environ=environ, **arguments)
        value = getattr(effective, name)
        assert (value, type(value)) == (expected, type(expected))
        assert (effective.option_value(name) or (None, "default"))[1] == origin
        (line,) = [
            line for line in effective.describe().splitlines() if line.startswith(f"{name} ")
        ]
        assert line.endswith(f"  {origin}")

    check(case.default, "default")
    if case.otel is not None:
        variable, text, value = case.otel
        environ[variable] = text
        check(value, variable)
    if name != "span_processors":
        environ |= config_file(tmp_path, **{name: case.config})
        check(case.config, "configuration file")
    if case.own is not None:
        variable, text, value = case.own
        environ[variable] = text
        check(value, variable)
    check(case.config, "config", config=config)
    check(case.argument, "argument", config=config, **{name: case.argument})
    check(case.config, "config", config=config, **{name: None})


class TestFile:
    @pytest.mark.parametrize(
        ("options", "warning"),
        [
            (
                {"sampling": "only_eror"},
                "distribution.llamatelemetry.sampling must be one or more of",
            ),
            (
                {"service_version": 1.10},
                "distribution.llamatelemetry.service_version must be text, got 1.1. Using the default",
            ),
            ({"exportr": "file"}, "exportr of {path}. Did you mean exporter?"),
            (
                {"span_processors": []},
                "span_processors of {path}. Set span_processors in code",
            ),
        ],
    )
    def test_invalid_entry_is_logged_once_and_ignored(self, options, warning, tmp_path, caplog):
        environ = config_file(tmp_path, **options)
        for _ in range(2):
            assert effective_config(environ=environ) == effective_config(environ={})
        (record,) = caplog.records
        assert warning.format(path=environ["OTEL_CONFIG_FILE"]) in record.getMessage()

    def test_invalid_redaction_entry_redacts_prompts(self, tmp_path, caplog):
        environ = config_file(tmp_path, redact_patterns="(")
        assert effective_config(environ=environ).redact_prompts is True
        assert len(caplog.records) == 1

    def test_invalid_value_does_not_activate_source_of_lower_precedence(self, tmp_path, caplog):
        environ = config_file(tmp_path, sampling="only_slow")
        environ["LLAMATELEMETRY_SAMPLING"] = "only_eror"
        assert effective_config(environ=environ).sampling == "parentbased_always_on"
        environ = config_file(tmp_path, capture_content="all")
        environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
        assert effective_config(environ=environ).capture_content == "no_content"
        assert len(caplog.records) == 2

    def test_invalid_secret_is_masked_in_warning(self, tmp_path, caplog):
        environ = config_file(tmp_path, otlp_headers=["swordfish"])
        effective_config(environ=environ)
        assert "swordfish" not in caplog.text
        assert (
            "otlp_headers must be HTTP headers as key=value pairs, comma-separated, got ***"
            in caplog.text
        )

    @pytest.mark.parametrize("text", ["", "distribution: {", "file_format: '1.0'\ndistribution: x"])
    def test_unreadable_file_is_ignored_without_warning(self, text, tmp_path, caplog):
        path = tmp_path / "otel.yaml"
        path.write_text(text)
        for each in (path, tmp_path / "no such file"):
            environ = {"OTEL_CONFIG_FILE": str(each)}
            assert effective_config(environ=environ) == effective_config(environ={})
        assert not [each for each in caplog.records if each.name.startswith("llamatelemetry")]

    def test_file_is_read_again_when_changed(self, tmp_path):
        environ = config_file(tmp_path, sampling="only_slow")
        assert effective_config(environ=environ).sampling == "only_slow"
        path = Path(environ["OTEL_CONFIG_FILE"])
        before = path.stat().st_mtime_ns
        config_file(tmp_path, sampling="only_errors")
        os.utime(path, ns=(before + 1, before + 1))
        assert effective_config(environ=environ).sampling == "only_errors"

    def test_file_substitutes_environment_variables(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SHARE", "0.25")
        environ = config_file(tmp_path, sample_rate="${SHARE}")
        assert effective_config(environ=environ).sample_rate == 0.25


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ONLY_SLOW, only_errors", "only_errors,only_slow"),
        ("ratio,only_errors", "only_errors,ratio"),
        ("ratio,ratio", "ratio"),
        (["only_slow", "ratio"], "only_slow,ratio"),
        ("Always_Off", "always_off"),
    ],
)
def test_sampling_combines_rules(given, expected):
    assert effective_config(environ={}, sampling=given).sampling == expected
    if isinstance(given, str):
        environ = {"OTEL_TRACES_SAMPLER": given}
        assert effective_config(environ=environ).sampling == expected


@pytest.mark.parametrize("given", ["only_errors,always_on", "only_errors;ratio", ","])
def test_sampling_rejects_combination_with_sdk_sampler(given):
    with pytest.raises(ValueError, match="sampling must be one or more of only_errors"):
        effective_config(environ={}, sampling=given)


@pytest.mark.parametrize("name", CASES)
def test_option_declares_its_variables(name):
    case, option = CASES[name], OPTIONS[name]
    assert option.variable == (case.own and case.own[0])
    if name == "exporter":
        signals = ("TRACES", "METRICS", "LOGS")
        assert option.otel_variables == tuple(f"OTEL_{signal}_EXPORTER" for signal in signals)
    else:
        assert option.otel_variables == ((case.otel[0],) if case.otel else ())


@pytest.mark.parametrize("name", CASES)
def test_empty_variable_equals_unset_variable(name):
    case = CASES[name]
    given = [variable[0] for variable in (case.own, case.otel) if variable]
    effective = effective_config(environ=dict.fromkeys(given, "  "))
    assert getattr(effective, name) == case.default
    assert effective.option_value(name) is None or effective.option_value(name).origin == "default"


@pytest.mark.parametrize("name", CASES)
def test_option_is_none_when_not_given(name):
    assert getattr(LlamaTelemetryConfig(), name) is None
    assert getattr(LlamaTelemetryConfig.from_env({}), name) is None


BAD_VALUES = [
    ("LLAMATELEMETRY_OTLP_ENDPOINT", "http://host:99999", "otlp_endpoint"),
    ("LLAMATELEMETRY_OTLP_ENDPOINT", "http://", "otlp_endpoint"),
    ("LLAMATELEMETRY_OTLP_ENDPOINT", "two words", "otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "otlp_protocol"),
    ("LLAMATELEMETRY_EXPORTER", "jaeger", "exporter"),
    ("LLAMATELEMETRY_EXPORTER", "otlp,none", "exporter"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "60s", "export_interval_ms"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "0", "export_interval_ms"),
    ("LLAMATELEMETRY_METRICS", "perhaps", "enable_metrics"),
    ("LLAMATELEMETRY_GPU_ENRICHMENT", "some", "gpu_enrichment"),
    ("LLAMATELEMETRY_GPU_INTERVAL_MS", "-1", "gpu_interval_ms"),
    ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true", "capture_content"),
    ("LLAMATELEMETRY_CONTENT_MAX_CHARS", "1.5", "content_max_chars"),
    ("LLAMATELEMETRY_REDACT_MODE", "md5", "redact_mode"),
    ("LLAMATELEMETRY_REDACT_PATTERNS", "(", "redact_patterns"),
    ("LLAMATELEMETRY_SAMPLING", "only_eror", "sampling"),
    ("LLAMATELEMETRY_SAMPLE_RATE", "1.01", "sample_rate"),
    ("LLAMATELEMETRY_SAMPLE_RATE", "nan", "sample_rate"),
    ("LLAMATELEMETRY_SLOW_THRESHOLD_S", "inf", "slow_threshold_s"),
    ("LLAMATELEMETRY_METRIC_NAMES", "v2", "metric_names"),
    ("LLAMATELEMETRY_PROPAGATE", "always", "propagate"),
    ("LLAMATELEMETRY_INSTRUMENTORS", "none", "instrumentors"),
    ("LLAMATELEMETRY_LLAMACPP_METRICS_URL", "localhost:8080/metrics", "llamacpp_metrics_url"),
    ("LLAMATELEMETRY_SERVER_METRICS_URLS", "localhost:8080/metrics", "server_metrics_urls"),
    ("LLAMATELEMETRY_LOG_LEVEL", "loud", "log_level"),
]


@pytest.mark.parametrize(("variable", "text", "name"), BAD_VALUES)
def test_invalid_variable_is_logged_once_and_ignored(variable, text, name, caplog):
    for _ in range(3):
        effective = effective_config(environ={variable: text})
    assert getattr(effective, name) == CASES[name].default
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("llamatelemetry.config", logging.WARNING)
    message = record.getMessage()
    option = OPTIONS[name]
    expected = f"{variable} must be {option.parser.accepts}, got {text!r}. {option.on_invalid}"
    assert message == expected


@pytest.mark.parametrize(("variable", "text", "name"), BAD_VALUES)
def test_invalid_value_in_code_raises_value_error(variable, text, name):
    expected = re.escape(f"{name} must be {OPTIONS[name].parser.accepts}, got {text!r}")
    for function in (effective_config, LlamaTelemetryConfig, LlamaTelemetryConfig().replace):
        with pytest.raises(ValueError, match=f"^{expected}$"):
            function(**{name: text})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("service_name", 7),
        ("enable_metrics", 2),
        ("content_max_chars", True),
        ("gpu_interval_ms", 1000.5),
        ("sample_rate", False),
        ("slow_threshold_s", 10**400),
        ("redact_keys", {"a": 1}),
        ("redact_keys", [1]),
        ("redact_patterns", [re.compile(b"x")]),
        ("otlp_headers", {"a": 1}),
        ("otlp_headers", ["a=b"]),
        ("otlp_headers", {"my key": "a"}),
        ("otlp_headers", {"näme": "a"}),
        ("otlp_headers", {"authorization": "Bearer\nsecret"}),
        ("otlp_headers", {"price": "1 €"}),
        ("export_path", 3),
        ("span_processors", [object()]),
        ("span_processors", FIRST),
    ],
)
def test_value_of_wrong_type_in_code_raises_value_error(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got "):
        effective_config(environ={}, **{name: value})


@pytest.mark.parametrize("name", ["export_interval_ms", "gpu_interval_ms"])
def test_interval_is_no_longer_than_a_thread_can_wait(name):
    longest_ms = getattr(effective_config(environ={}, **{name: sys.maxsize}), name)
    assert longest_ms / 1000 == threading.TIMEOUT_MAX


@pytest.mark.parametrize("config", [{}, {"exporter": "none"}, "otlp"])
def test_config_of_another_type_raises_type_error_that_names_the_right_one(config):
    with pytest.raises(TypeError, match=r"must be a LlamaTelemetryConfig, not (dict|str)"):
        effective_config(config, environ={})


def test_unknown_option_raises_type_error_with_suggestion():
    with pytest.raises(TypeError, match=r"Unknown option 'exportr'. Did you mean 'exporter'\?"):
        effective_config(exportr="file")
    with pytest.raises(TypeError, match=r"Did you mean 'redact_prompts'\?"):
        LlamaTelemetryConfig().replace(redact_prompt=True)


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("LLAMATELEMETRY_EXPORTR", "Did you mean LLAMATELEMETRY_EXPORTER?"),
        ("LLAMATELEMETRY_OTLP_HEADERS", "Use OTEL_EXPORTER_OTLP_HEADERS"),
        ("LLAMATELEMETRY_ENABLE_METRICS", "Use LLAMATELEMETRY_METRICS"),
        ("LLAMATELEMETRY_SPAN_PROCESSORS", "Set span_processors in code"),
    ],
)
def test_unknown_variable_is_logged_once_with_suggestion(variable, advice, caplog):
    for _ in range(2):
        effective_config(environ={variable: "secret", "OTHER": "x"})
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignored unknown variable {variable}. {advice}"
    ]


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "Yes", "on", " on "])
@pytest.mark.parametrize(("opposite", "expected"), [(False, True), (True, False)])
def test_boolean_accepts_usual_words_in_any_case(word, opposite, expected):
    words = {"true": "false", "1": "0", "yes": "no", "on": "off"}
    text = words[word.strip().lower()].title() if opposite else word
    assert effective_config(environ={"LLAMATELEMETRY_METRICS": text}).enable_metrics is expected
    gpu = effective_config(environ={"LLAMATELEMETRY_GPU_ENRICHMENT": text})
    assert gpu.gpu_enrichment is expected
    assert effective_config(environ={}, phase_spans=text).phase_spans is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http,database", "v1.41"),
        ("http/dup, GEN_AI_LATEST_EXPERIMENTAL", "latest"),
        ("gen_ai_latest_experimental/dup", "both"),
        ("gen_ai_latest_experimental,gen_ai_latest_experimental/dup", "both"),
        ("gen_ai_latest_experimental_too", "v1.41"),
    ],
)
def test_metric_names_reads_only_gen_ai_entries_of_stability_list(text, expected, caplog):
    environ = {"OTEL_SEMCONV_STABILITY_OPT_IN": text}
    assert effective_config(environ=environ).metric_names == expected
    assert not caplog.records


@pytest.mark.parametrize("text", ["NO_CONTENT", "span_only", "Event_Only", "SPAN_AND_EVENT"])
def test_capture_content_accepts_any_case(text):
    environ = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": text}
    assert effective_config(environ=environ).capture_content == text.lower()


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        (None, "http/protobuf"),
        ("http://localhost:4317", "grpc"),
        ("localhost:4317", "grpc"),
        ("https://[::1]:4317/", "grpc"),
        ("http://localhost:4318", "http/protobuf"),
        ("https://collector.example/v1/traces", "http/protobuf"),
        ("http://host:8080/4317", "http/protobuf"),
    ],
)
def test_protocol_default_depends_on_port_of_endpoint(endpoint, protocol):
    effective = effective_config(environ={}, otlp_endpoint=endpoint)
    assert effective.otlp_protocol == protocol
    given = effective_config(
        environ={"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, otlp_endpoint=endpoint
    )
    assert given.otlp_protocol == "http/protobuf"


@pytest.mark.parametrize(
    ("environ", "exporter", "by_signal"),
    [
        ({}, "otlp", [("otlp",)] * 3),
        ({"LLAMATELEMETRY_EXPORTER": "File"}, "file", [("file",)] * 3),
        ({"LLAMATELEMETRY_EXPORTER": "otlp, file"}, "otlp,file", [("otlp", "file")] * 3),
        ({"LLAMATELEMETRY_EXPORTER": "none"}, "none", [()] * 3),
        (
            {"OTEL_TRACES_EXPORTER": "otlp, console", "OTEL_LOGS_EXPORTER": "none"},
            "traces=otlp,console metrics=otlp logs=none",
            [("otlp", "console"), ("otlp",), ()],
        ),
        (
            {f"OTEL_{signal}_EXPORTER": "zipkin" for signal in ("TRACES", "METRICS", "LOGS")},
            "zipkin",
            [("zipkin",)] * 3,
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "LLAMATELEMETRY_EXPORTER": "file"},
            "file",
            [("file",)] * 3,
        ),
    ],
)
def test_exporters_differ_per_signal(environ, exporter, by_signal):
    effective = effective_config(environ=environ)
    assert effective.exporter == exporter
    assert list(effective.exporters()) == ["traces", "metrics", "logs"]
    assert list(effective.exporters().values()) == by_signal


def test_headers_use_encoding_of_opentelemetry():
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20YTpi==, x-Team = a%2Cb ,,e="}
    expected = {"authorization": "Basic YTpi==", "x-team": "a,b", "e": ""}
    assert effective_config(environ=environ).otlp_headers == expected
    given = {"Authorization": "a=b,c%20"}
    assert LlamaTelemetryConfig(otlp_headers=given).otlp_headers == {"authorization": "a=b,c%20"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (r"[0-9]{3,4}", (r"[0-9]{3,4}",)),
        (r'["\\d+", "a{1,2}"]', (r"\d+", "a{1,2}")),
        ("[1]", ("[1]",)),
        ([" x ", ""], ("x",)),
        (re.compile("secret", re.IGNORECASE), ("(?i:secret)",)),
        ([re.compile("plain")], ("plain",)),
    ],
)
def test_redact_patterns_may_contain_commas(given, expected):
    assert effective_config(environ={}, redact_patterns=given).redact_patterns == expected
    if isinstance(given, str):
        environ = {"LLAMATELEMETRY_REDACT_PATTERNS": given}
        assert effective_config(environ=environ).redact_patterns == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"LLAMATELEMETRY_REDACT_PROMPTS": "perhaps"},
        {"LLAMATELEMETRY_REDACT_PATTERNS": "("},
        {"LLAMATELEMETRY_REDACT_MODE": "md5", "LLAMATELEMETRY_REDACT_PROMPTS": "false"},
    ],
)
def test_invalid_redaction_variable_redacts_prompts(environ, caplog):
    assert effective_config(environ=environ).redact_prompts is True
    (record,) = caplog.records
    assert record.getMessage().endswith(". Redacting all prompts and completions")
    assert effective_config(environ=environ, redact_prompts=False).redact_prompts is False


def test_hash_mode_needs_key(caplog):
    with pytest.raises(ValueError, match="redact_mode=hash needs redact_hash_key"):
        effective_config(environ={}, redact_mode="hash")
    effective = effective_config(environ={"LLAMATELEMETRY_REDACT_MODE": "hash"})
    assert (effective.redact_mode, effective.option_value("redact_mode").origin) == (
        "replace",
        "default",
    )
    assert len(caplog.records) == 1
    keyed = effective_config(environ=KEY, redact_mode="hash")
    assert (keyed.redact_mode, keyed.redact_hash_key) == ("hash", "k")


def test_secrets_are_masked_in_repr_describe_logs_and_errors(caplog):
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=swordfish",
        "LLAMATELEMETRY_REDACT_HASH_KEY": "swordfish",
        "LLAMATELEMETRY_OTLP_ENDPOINT": "http://user:swordfish@host:4318?api_key=swordfish",
        "LLAMATELEMETRY_LLAMACPP_METRICS_URL": "http://user:swordfish@host/metrics?swordfish",
        "LLAMATELEMETRY_SERVER_METRICS_URLS": "http://user:swordfish@host/v1/metrics",
    }
    effective = effective_config(environ=environ)
    effective_config(environ={"LLAMATELEMETRY_OTLP_ENDPOINT": "user:swordfish@host:port"})
    effective_config(environ={"OTEL_EXPORTER_OTLP_HEADERS": "swordfish"})
    with pytest.raises(ValueError, match="otlp_headers") as bad:
        effective_config(environ=environ, otlp_headers="swordfish")
    shown = [repr(effective), str(effective), effective.describe(), caplog.text, str(bad.value)]
    assert not [text for text in shown if "swordfish" in text]
    assert "http://***@host:4318?api_key=***" in effective.describe()
    assert "otlp_endpoint='http://***@host:4318?api_key=***'" in repr(effective)
    assert "llamacpp_metrics_url=('http://***@host/metrics?***',)" in repr(effective)
    assert "server_metrics_urls=('http://***@host/v1/metrics',)" in repr(effective)
    assert "otlp_headers=***" in repr(effective)
    assert effective.otlp_headers == {"authorization": "swordfish"}


@pytest.mark.parametrize(
    ("options", "urls"),
    [
        ({}, ()),
        ({"llamacpp_metrics_url": "http://a"}, ("http://a",)),
        ({"server_metrics_urls": "http://a,http://b", "enable_metrics": False}, ()),
        (
            {
                "server_metrics_urls": "http://a,http://b",
                "llamacpp_metrics_url": "http://b,http://c",
            },
            ("http://a", "http://b", "http://c"),
        ),
    ],
    ids=["neither", "older name", "no metrics", "both"],
)
def test_scraped_urls_are_the_union_of_both_options(options, urls):
    assert effective_config(environ={}, **options).scraped_urls() == urls


def test_describe_has_row_for_each_option_with_value_and_source():
    effective = effective_config(
        LlamaTelemetryConfig(phase_spans=False),
        environ={"LLAMATELEMETRY_REDACT_KEYS": "a,b", "OTEL_TRACES_EXPORTER": "console"},
        service_name="demo",
    )
    lines = effective.describe().splitlines()
    assert [line.split()[0] for line in lines] == ["option", *OPTIONS]
    rows = {line.split()[0]: re.split(r"\s{2,}", line)[1:] for line in lines}
    assert rows["service_name"] == ["demo", "argument"]
    assert rows["phase_spans"] == ["false", "config"]
    assert rows["redact_keys"] == ["a, b", "LLAMATELEMETRY_REDACT_KEYS"]
    assert rows["exporter"] == ["traces=console metrics=otlp logs=otlp", "OTEL_TRACES_EXPORTER"]
    assert rows["otlp_endpoint"] == ["SDK default", "default"]
    assert rows["environment"] == ["unset", "default"]


def test_every_option_has_documentation():
    for name, option in OPTIONS.items():
        assert option.doc, name
        assert not option.doc.endswith("."), name
        assert option.default_doc, name
        assert option.parser.accepts, name


def test_effective_config_resolves_to_itself():
    environ = {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_TRACES_SAMPLER": "xray"}
    first = effective_config(environ=environ, service_name="a")
    again = effective_config(first, environ=environ)
    assert again == first
    assert hash(again) == hash(first)
    assert again.describe() == first.describe()


def test_default_of_effective_config_does_not_override_later_values():
    first = effective_config(environ={})
    environ = {"LLAMATELEMETRY_PHASE_SPANS": "false"}
    later = effective_config(first, environ=environ, otlp_endpoint="http://host:4317")
    assert later.phase_spans is False
    assert later.otlp_protocol == "grpc"


@pytest.fixture
def nothing_active():
    set_active_config(None)
    yield
    set_active_config(None)


def test_active_config_reads_environment_when_nothing_is_set_up(nothing_active, monkeypatch):
    monkeypatch.setenv("LLAMATELEMETRY_PROPAGATE", "off")
    assert active_config().propagate == "off"
    assert active_config(propagate="on").propagate == "on"
    assert active_config(LlamaTelemetryConfig(phase_spans=False)).phase_spans is False


def test_active_config_prefers_explicit_options_then_config_of_setup(nothing_active, monkeypatch):
    monkeypatch.setenv("LLAMATELEMETRY_PROPAGATE", "off")
    in_force = effective_config(propagate="on", provider_name="vllm")
    set_active_config(in_force)
    assert active_config() is in_force
    changed = active_config(propagate="auto")
    assert (changed.propagate, changed.provider_name) == ("auto", "vllm")
    # A configuration from the caller replaces the active one; it is not merged with it.
    assert active_config(LlamaTelemetryConfig()).provider_name is None


def test_value_from_active_config_is_rebuilt_only_when_config_is_replaced(nothing_active):
    built = []
    value = FromActiveConfig(lambda config: built.append(config) or config.propagate)
    assert built == []
    assert [value.get(), value.get()] == ["auto", "auto"]
    set_active_config(effective_config(propagate="on"))
    assert [value.get(), value.get()] == ["on", "on"]
    assert len(built) == 2


def test_replace_changes_only_named_options():
    first = effective_config(environ={"OTEL_TRACES_SAMPLER": "xray"})
    second = first.replace(exporter="FILE", service_name=None)
    assert (second.exporter, second.option_value("exporter").origin) == ("file", "config")
    assert second.option_value("sampling") == ("xray", "OTEL_TRACES_SAMPLER")
    assert first.exporter == "otlp"
    assert first.replace(phase_spans=None).phase_spans is None


def test_config_is_frozen_and_can_be_copied_and_pickled():
    config = LlamaTelemetryConfig(redact_keys=["a"], otlp_headers={"a": "b"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.exporter = "file"
    assert config.redact_keys == ("a",)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert other.option_value("redact_keys") == config.option_value("redact_keys")


def test_export_path_accepts_path_object():
    assert effective_config(environ={}, export_path=Path("a") / "b").export_path == str(
        Path("a") / "b"
    )


def test_environment_of_process_is_read_by_default(monkeypatch):
    monkeypatch.setenv("LLAMATELEMETRY_SERVICE_NAME", "from the process")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert effective_config().service_name == "from the process"
    assert LlamaTelemetryConfig.from_env().service_name == "from the process"
    assert sdk_disabled() is True


@pytest.mark.parametrize(
    ("text", "disabled"),
    [("true", True), (" TRUE ", True), ("1", False), ("", False), ("no", False)],
)
def test_sdk_disabled_accepts_only_true(text, disabled):
    assert sdk_disabled({"OTEL_SDK_DISABLED": text}) is disabled
    assert sdk_disabled({}) is False


def test_import_of_config_does_not_load_opentelemetry():
    code = (
        "import sys, llamatelemetry.config; print([m for m in sys.modules if 'opentelemetry' in m])"
    )
    environ = {key: text for key, text in os.environ.items() if not key.startswith("OTEL_")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert result.stdout.strip() == "[]"


def test_instrumenter_without_config_uses_active_config(nothing_active):
    set_active_config(effective_config(provider_name="vllm"))
    assert plugin_instrumenter("plugin", "1", {}).config.provider_name == "vllm"


def test_zero_code_setup_puts_its_config_in_force():
    code = """
        import os
        os.environ["LLAMATELEMETRY_PROPAGATE"] = "on"
        from llamatelemetry.config import active_config
        print(active_config().propagate)
    """
    environ = {
        **os.environ,
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "LLAMATELEMETRY_EXPORTER": "none",
        "LLAMATELEMETRY_PROPAGATE": "off",
    }
    command = [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "-c"]
    result = subprocess.run(
        [*command, textwrap.dedent(code)], capture_output=True, text=True, check=True, env=environ
    )
    assert result.stdout.strip() == "off"
