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
