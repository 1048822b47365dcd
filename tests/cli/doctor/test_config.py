"""Checks of the configuration: sources of values, and warnings about variables."""

from __future__ import annotations

import pytest

from llamatelemetry.cli.doctor.config import config_checks, resolve
from tests.support.process_state import forget_logged_options

ENDPOINT, HEADERS = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"


@pytest.fixture(autouse=True)
def no_warning_is_logged_before() -> None:
    forget_logged_options()


def test_config_checks_distinguish_unknown_variables_from_invalid_values():
    environ = {"LLAMATELEMETRY_REDACT_PATTERN": "email", "LLAMATELEMETRY_SAMPLE_RATE": "7"}
    warned = [each for each in config_checks(*resolve(environ)) if each.status == "warn"]
    titles = {check.title: check.detail for check in warned}
    assert titles.keys() == {"unknown variable", "invalid value"}
    assert "LLAMATELEMETRY_REDACT_PATTERN" in titles["unknown variable"]
    assert "LLAMATELEMETRY_SAMPLE_RATE" in titles["invalid value"]


def test_config_checks_show_sources_and_invalid_values_but_no_secret():
    environ = {
        HEADERS: "authorization=Bearer%20secret",
        "LLAMATELEMETRY_EXPORTER": "console",
        "LLAMATELEMETRY_GPU_INTERVAL_MS": "soon",
        ENDPOINT: "http://user:secret@c:4317",
    }
    checks = config_checks(*resolve(environ))
    lines = {check.title: (check.status, check.detail) for check in checks}
    assert lines["exporter"] == ("info", "console, from LLAMATELEMETRY_EXPORTER")
    assert lines["otlp_headers"] == ("info", f"***, from {HEADERS}")
    assert lines["invalid value"][0] == "warn"
    assert (
        "LLAMATELEMETRY_GPU_INTERVAL_MS must be integer >= 10, got 'soon'"
        in lines["invalid value"][1]
    )
    assert "options at their defaults" in lines["defaults"][1]
    assert "secret" not in str(checks)


def test_config_checks_list_defaults_only_when_verbose():
    config, warnings = resolve({})
    brief = {check.title for check in config_checks(config, warnings)}
    listed = {c.title: c.detail for c in config_checks(config, warnings, verbose=True)}
    assert brief == {"defaults"}
    assert listed["gpu_interval_ms"] == "1000 (default)"
    assert "defaults" not in listed


def test_config_checks_name_invalid_values_of_opentelemetry_variables():
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "many", "OTEL_METRIC_EXPORT_INTERVAL": "0"}
    warned = [c.detail for c in config_checks(*resolve(environ)) if c.status == "warn"]
    assert sorted(text.split()[0] for text in warned) == sorted(environ)
