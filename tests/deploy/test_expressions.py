"""Every expression of every panel and rule, evaluated by a real Prometheus after real traffic."""

from __future__ import annotations

import math

import pytest

from tests.deploy.conftest import Traffic
from tests.deploy.prometheus import (
    Expression,
    panel_expressions,
    rule_expressions,
)

# What the run of `traffic` cannot have, by the place of the expression.
NO_DATA = {
    **dict.fromkeys(
        (
            "health: Refused spans",
            "health: Failed exports of the Collector",
            "health: Export queue of the Collector",
        ),
        "needs the OpenTelemetry Collector",
    ),
    "health: Redaction failures": "needs an error in llamatelemetry",
    "engines: Preemptions": "llama.cpp does not preempt requests",
    "engines: Draft acceptance": "the server has no draft model",
    "engines: Prefix cache hit ratio": "llama.cpp does not report look-ups",
    "record: llamatelemetry:energy_per_output_token:joules1d": "evaluated every five minutes",
}


@pytest.mark.parametrize("found", [*panel_expressions(), *rule_expressions("record")], ids=str)
def test_expression_returns_data_or_has_a_reason(found: Expression, traffic: Traffic):
    series = traffic.prometheus.during(found.executable, traffic.start_s, traffic.end_s)
    values = [float(value) for each in series for _, value in each["values"]]
    has_data = any(not math.isnan(value) for value in values)
    assert has_data is (found.place not in NO_DATA), found.executable
