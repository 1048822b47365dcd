"""Every expression of every panel and rule, evaluated by a real Prometheus after real traffic."""

from __future__ import annotations

import math
import re

import pytest

from tests.deploy.conftest import HAPPENED, Traffic, firing_alerts
from tests.deploy.prometheus import (
    ROOT,
    Expression,
    Prometheus,
    load_scale,
    panel_expressions,
    rule_expressions,
)

# The first test of each worker waits for the traffic.
pytestmark = pytest.mark.timeout(1200)

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
    has_data = {each: returns_data(each, traffic.prometheus, traffic) for each in expressions}
    missing = [e for e, found in has_data.items() if not found and e.place not in NO_DATA]
    assert [f"{each.place}: {each.executable}" for each in missing] == []
    assert {each.place for each, found in has_data.items() if found} & {*NO_DATA} == set()
    assert {*NO_DATA} <= {each.place for each in expressions}


def returns_data(expression: Expression, server: Prometheus, traffic: Traffic) -> bool:
    """Return whether the expression had a value at any time of the traffic."""
    series = server.during(expression.executable, traffic.start_s, traffic.end_s)
    return any(not math.isnan(float(value)) for each in series for _, value in each["values"])


@pytest.mark.needs("victoria-metrics")
def test_victoria_metrics_evaluates_the_same_expressions(traffic: Traffic):
    """It has no recording rules, so panels of recorded series are left out."""
    server = traffic.victoria_metrics
    assert server
    expressions = [*panel_expressions(), *rule_expressions("record")]
    missing = [
        f"{each.place}: {each.executable}"
        for each in expressions
        if "llamatelemetry:" not in each.expr
        and each.place not in NO_DATA
        and not returns_data(each, server, traffic)
    ]
    assert missing == []
    for each in rule_expressions("alert"):
        server.during(each.executable, traffic.start_s, traffic.end_s)


def test_counters_of_server_continue_through_its_restart(traffic: Traffic):
    name = 'llamatelemetry_server_generated_tokens_total{gen_ai_provider_name="llama_cpp"}'
    duration = f"{math.ceil(traffic.end_s - traffic.start_s) + 5}s"
    (resets,) = traffic.prometheus.at(traffic.end_s, f"resets({name}[{duration}])")
    assert resets["value"][1] == "0"
    (series,) = traffic.prometheus.during(name, traffic.start_s, traffic.end_s)
    values = [float(value) for _, value in series["values"]]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_series_of_servers_and_gpus_are_those_of_the_computation(traffic: Traffic):
    scale = load_scale()
    # llama.cpp also has the older names.
    servers = '{__name__=~"llamatelemetry_(server|llamacpp)_.*",gen_ai_provider_name!=""}'
    found = {
        each["metric"]["gen_ai_provider_name"]: int(each["value"][1])
        for each in traffic.prometheus.at(
            traffic.end_s, f"count by (gen_ai_provider_name) ({servers})"
        )
    }
    expected = scale.SERVER_SERIES
    assert found == pytest.approx(
        {"llama_cpp": expected["llama.cpp"], "vllm": expected["vllm"]}, rel=0.15
    )
    (gpu,) = traffic.prometheus.at(traffic.end_s, 'max(count by (hw_id) ({hw_id!=""}))')
    assert int(gpu["value"][1]) == pytest.approx(scale.GPU_SERIES, rel=0.15)


def test_alerts_fire_for_what_happened_only(traffic: Traffic):
    """Rules in which an hour is a minute. TTFT, TPOT and the queue depend on the machine's speed."""
    server, start_s, end_s = traffic.prometheus, traffic.start_s, traffic.end_s
    not_a_fault = {"LlmTtftBudgetBurn", "LlmTpotBudgetBurn", "LlmQueueGrowing"}
    # On a slow machine, a scrape of the busy application takes longer than its limit of a second.
    if server.during("max_over_time(up[8s]) == 0", start_s, end_s):
        not_a_fault.add("NoTelemetry")
    assert firing_alerts(server, start_s, end_s) - not_a_fault == HAPPENED


def test_queries_of_runbooks_are_valid(traffic: Traffic):
    for path in sorted((ROOT / "docs/operate/alerts").glob("*.md")):
        for query in re.findall(r"```promql\n(.+?)```", path.read_text(), re.DOTALL):
            traffic.prometheus.at(traffic.end_s, query)
