"""Exporters and endpoints of each signal for options and environment variables."""

from __future__ import annotations

import pytest

from llamatelemetry.config import LlamaTelemetryConfig, effective_config
from llamatelemetry.distro import plan_exports
from llamatelemetry.otel.export.console_line import console_line

GRPC, HTTP = "otlp_proto_grpc", "otlp_proto_http"


def plan(environ: dict[str, str] | None = None, **options):
    environ = environ or {}
    config = effective_config(options.pop("config", None), environ=environ, **options)
    found = plan_exports(config, environ)
    return found.exporters, list(found.warnings)


def test_every_signal_uses_http_exporter_by_default():
    assert plan() == ({signal: {HTTP: {}} for signal in ("traces", "metrics", "logs")}, [])


@pytest.mark.parametrize(
    ("endpoint", "exporter", "traces_endpoint"),
    [
        ("http://collector:4317", GRPC, "http://collector:4317"),
        ("collector:4317", GRPC, "collector:4317"),
        ("http://collector:4318", HTTP, "http://collector:4318/v1/traces"),
        ("http://collector:4318/", HTTP, "http://collector:4318/v1/traces"),
        ("https://collector/otlp", HTTP, "https://collector/otlp/v1/traces"),
        ("collector:4318", HTTP, "http://collector:4318/v1/traces"),
        ("https://collector", HTTP, "https://collector/v1/traces"),
        ("https://collector/in?key=a/", HTTP, "https://collector/in/v1/traces?key=a/"),
    ],
)
@pytest.mark.parametrize("by", ["argument", "LLAMATELEMETRY_OTLP_ENDPOINT", "OTEL"])
def test_port_of_endpoint_selects_protocol(endpoint, exporter, traces_endpoint, by):
    variable = "OTEL_EXPORTER_OTLP_ENDPOINT" if by == "OTEL" else by
    exporters, warnings = (
        plan(otlp_endpoint=endpoint) if by == "argument" else plan({variable: endpoint})
    )
    assert exporters["traces"] == {exporter: {"endpoint": traces_endpoint}}
    assert warnings == []


def test_base_url_gets_path_of_each_signal():
    exporters, _ = plan(otlp_endpoint="http://h:1")
    assert {name: found[HTTP]["endpoint"] for name, found in exporters.items()} == {
        "traces": "http://h:1/v1/traces",
        "metrics": "http://h:1/v1/metrics",
        "logs": "http://h:1/v1/logs",
    }


@pytest.mark.parametrize(
    ("environ", "options", "exporter"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}, GRPC),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, {}, GRPC),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, {"otlp_protocol": "http/protobuf"}, HTTP),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            {"otlp_endpoint": "http://h:4317"},
            HTTP,
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4317"}, {}, GRPC),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, {"otlp_endpoint": "http://h:4318"}, GRPC),
    ],
)
def test_explicit_protocol_wins_over_port(environ, options, exporter):
    assert list(plan(environ, **options)[0]["traces"]) == [exporter]


def test_invalid_protocol_of_signal_is_ignored_with_warning():
    exporters, warnings = plan({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"})
    assert list(exporters["traces"]) == [HTTP]
    (warning,) = warnings
    assert warning == (
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be grpc or http/protobuf, got 'http/json'. Ignored"
    )


@pytest.mark.parametrize("variable", [None, "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_full_signal_url_exports_one_signal_and_warns_about_others(variable):
    url = "http://user:secret@h:4318/v1/traces"
    exporters, warnings = plan({variable: url}) if variable else plan(otlp_endpoint=url)
    assert exporters == {"traces": {HTTP: {"endpoint": url}}, "metrics": {}, "logs": {}}
    (warning,) = warnings
    assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT and OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" in warning
    assert "secret" not in warning


def test_other_signals_use_their_own_endpoints_with_full_signal_url():
    exporters, (warning,) = plan(
        {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs:1/in"},
        otlp_endpoint="http://h:4318/v1/metrics/",
    )
    assert exporters == {
        "traces": {},
        "metrics": {HTTP: {"endpoint": "http://h:4318/v1/metrics/"}},
        "logs": {HTTP: {"endpoint": "http://logs:1/in"}},
    }
    assert "traces are not exported" in warning
    assert "LOGS_ENDPOINT" not in warning


def test_explicit_endpoint_wins_over_variable_of_signal():
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://own:1"}
    assert plan(environ, otlp_endpoint="http://h:2")[0]["traces"] == {
        HTTP: {"endpoint": "http://h:2/v1/traces"}
    }
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://h:2"
    assert plan(environ)[0]["traces"] == {HTTP: {"endpoint": "http://own:1"}}


def test_explicit_headers_are_arguments_and_variable_is_left_to_exporter():
    assert plan(otlp_headers={"Key": "v"})[0]["logs"] == {HTTP: {"headers": {"key": "v"}}}
    assert plan({"OTEL_EXPORTER_OTLP_HEADERS": "key=v"})[0]["logs"] == {HTTP: {}}


def test_exporter_names_become_entry_points():
    def everywhere(exporters):
        return {"traces": exporters, "metrics": exporters, "logs": exporters}

    assert plan(exporter="none")[0] == everywhere({})
    assert plan(exporter="console")[0] == {
        "traces": {"console": {"formatter": console_line}}, "metrics": {}, "logs": {},
    }  # fmt: skip
    assert plan(exporter="console-json")[0] == everywhere({"console": {}})
    # That of OpenTelemetry's variables is the SDK's.
    assert plan({"OTEL_TRACES_EXPORTER": "console"})[0]["traces"] == {"console": {}}
    file = {"llamatelemetry_file": {"path": "/x"}}
    assert plan(exporter="file", export_path="/x")[0] == everywhere(file)
    assert list(plan(exporter="otlp,console")[0]["traces"]) == [HTTP, "console"]


def test_otel_variables_select_exporters_per_signal():
    environ = {"OTEL_TRACES_EXPORTER": "file", "OTEL_METRICS_EXPORTER": "prometheus,none"}
    exporters, _ = plan(environ)
    assert exporters == {
        "traces": {"llamatelemetry_file": {"path": "./llamatelemetry-data"}},
        "metrics": {"llamatelemetry_prometheus": {}},
        "logs": {HTTP: {}},
    }


def test_prometheus_exports_only_metrics():
    assert plan(exporter="otlp,prometheus")[0] == {
        "traces": {HTTP: {}},
        "metrics": {HTTP: {}, "llamatelemetry_prometheus": {}},
        "logs": {HTTP: {}},
    }
    assert plan({"LLAMATELEMETRY_EXPORTER": "prometheus"})[0] == {
        "traces": {},
        "metrics": {"llamatelemetry_prometheus": {}},
        "logs": {},
    }


def test_metrics_have_no_exporter_when_disabled():
    exporters, _ = plan(enable_metrics=False)
    assert exporters == {"traces": {HTTP: {}}, "metrics": {}, "logs": {HTTP: {}}}


def test_config_object_counts_as_explicit():
    config = LlamaTelemetryConfig(otlp_endpoint="http://h:2", otlp_headers={"a": "b"})
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://own:1"}
    assert plan(environ, config=config)[0]["traces"] == {
        HTTP: {"endpoint": "http://h:2/v1/traces", "headers": {"a": "b"}}
    }
