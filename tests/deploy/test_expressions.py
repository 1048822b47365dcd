"""Every expression of every panel and rule, evaluated by a real Prometheus after real traffic."""

from __future__ import annotations

import math

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
    "gpu: Memory of processes": "the scripted driver does not know the process",
}


def test_every_expression_returns_data_or_has_a_reason(traffic: Traffic):
    expressions = [*panel_expressions(), *rule_expressions("record")]
    has_data = {each: returns_data(each, traffic) for each in expressions}
    missing = [e for e, found in has_data.items() if not found and e.place not in NO_DATA]
    assert [f"{each.place}: {each.executable}" for each in missing] == []
    assert {each.place for each, found in has_data.items() if found} & {*NO_DATA} == set()
    assert {*NO_DATA} <= {each.place for each in expressions}


def returns_data(expression: Expression, traffic: Traffic) -> bool:
    """Return whether the expression had a value at any time of the traffic."""
    series = traffic.prometheus.during(expression.executable, traffic.start_s, traffic.end_s)
    return any(not math.isnan(float(value)) for each in series for _, value in each["values"])
