"""Each alert fires in its own scenario and in no other, by `promtool test rules`.

A scenario is the series of a healthy service, some of them replaced.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import DASHBOARDS, ROOT, RULES, panels, rule_expressions

pytestmark = pytest.mark.needs("prometheus")

CALLS = "gen_ai_client_operation_duration_seconds_count"
TTFT = "gen_ai_client_operation_time_to_first_chunk_seconds"
TPOT = "gen_ai_client_operation_time_per_output_chunk_seconds"
SERVER = 'server_address="gpu-1",server_port="8000"'
GPU = 'hw_id="GPU-1",hw_name="H200"'
THROTTLED = "llamatelemetry_gpu_throttled"
STEPS = 480
JOB = 'job="shop"'

HEALTHY = {
    f"target_info{{{JOB}}}": f"1x{STEPS}",
    f"{CALLS}{{{JOB}}}": f"0+60x{STEPS}",
    f'{TTFT}_bucket{{{JOB},le="2.56"}}': f"0+60x{STEPS}",
    f"{TTFT}_count{{{JOB}}}": f"0+60x{STEPS}",
    f'{TPOT}_bucket{{{JOB},le="0.16"}}': f"0+600x{STEPS}",
    f"{TPOT}_count{{{JOB}}}": f"0+600x{STEPS}",
    f"llamatelemetry_server_up{{{SERVER}}}": f"1x{STEPS}",
    f"llamatelemetry_server_requests_waiting{{{SERVER}}}": f"0x{STEPS}",
    f"llamatelemetry_server_kv_cache_usage{{{SERVER}}}": f"0.6x{STEPS}",
    f"llamatelemetry_server_preemptions_total{{{SERVER}}}": f"7x{STEPS}",
    # Full load: the power cap alone is normal.
    f'{THROTTLED}{{{GPU},llamatelemetry_gpu_throttle_reason="power_cap"}}': f"1x{STEPS}",
    f'{THROTTLED}{{{GPU},llamatelemetry_gpu_throttle_reason="hw_thermal"}}': f"0x{STEPS}",
    f'hw_status{{{GPU},hw_state="ok"}}': f"1x{STEPS}",
    f'hw_status{{{GPU},hw_state="degraded"}}': f"0x{STEPS}",
    f'hw_errors_total{{{GPU},error_type="uncorrected"}}': f"2x{STEPS}",
    f'hw_errors_total{{{GPU},error_type="corrected"}}': f"0+1x{STEPS}",
    f"hw_energy_joules_total{{{GPU}}}": f"0+600x{STEPS}",
    f'gen_ai_client_token_usage_sum{{{JOB},gen_ai_token_type="output"}}': f"0+600x{STEPS}",
    f'otel_sdk_processor_span_processed_total{{{JOB},error_type="queue_full"}}': f"3x{STEPS}",
    f'otel_sdk_processor_span_processed_total{{{JOB},error_type=""}}': f"0+60x{STEPS}",
    f"otel_sdk_exporter_operation_duration_seconds_count{{{JOB}}}": f"0+12x{STEPS}",
}


@dataclass(frozen=True)
class Scenario:
    """Series that differ from the healthy ones, and the alerts that fire at the end."""

    changes: Mapping[str, str]
    firing: set[tuple[str, str]]
    step: str = "1m"


def burn(series: str, values: str, alert: str, *severities: str) -> Scenario:
    return Scenario({series: values}, {(alert, severity) for severity in severities})


def changed(series: str, values: str, alert: str, severity: str = "warning") -> Scenario:
    return Scenario({series: values}, {(alert, severity)})


FAILED = f'{CALLS}{{{JOB},error_type="500"}}'
FAST_TTFT = f'{TTFT}_bucket{{{JOB},le="2.56"}}'
FAST_TPOT = f'{TPOT}_bucket{{{JOB},le="0.16"}}'
KV_CACHE = f"llamatelemetry_server_kv_cache_usage{{{SERVER}}}"
HOURS = 8 * 24
BOTH = ("critical", "warning")

SCENARIOS = {
    "healthy": Scenario({}, set()),
    "nothing runs": Scenario(dict.fromkeys(HEALTHY, f"_x{STEPS}"), set()),
    "half of the calls fail": burn(FAILED, f"0+60x{STEPS}", "LlmErrorBudgetBurn", *BOTH),
    "a tenth of the calls fails": burn(FAILED, f"0+6x{STEPS}", "LlmErrorBudgetBurn", "warning"),
    "every hundredth call fails": Scenario({FAILED: f"0+0.5x{STEPS}"}, set()),
    "calls failed for a minute": Scenario({FAILED: f"0x400 60x{STEPS - 401}"}, set()),
    "every stream starts late": burn(FAST_TTFT, f"0x{STEPS}", "LlmTtftBudgetBurn", *BOTH),
    "half of the streams start late": burn(
        FAST_TTFT, f"0+30x{STEPS}", "LlmTtftBudgetBurn", "warning"
    ),
    "every chunk is late": burn(FAST_TPOT, f"0x{STEPS}", "LlmTpotBudgetBurn", *BOTH),
    "half of the chunks are late": burn(
        FAST_TPOT, f"0+300x{STEPS}", "LlmTpotBudgetBurn", "warning"
    ),
    "a server is down": changed(
        f"llamatelemetry_server_up{{{SERVER}}}",
        f"1x400 0x{STEPS - 401}",
        "LlmServerDown",
        "critical",
    ),
    "a server is down, by the Collector": changed(
        f"llamatelemetry_server_up_ratio{{{SERVER}}}", f"0x{STEPS}", "LlmServerDown", "critical"
    ),
    # The Collector exposes a series for five minutes after its last value.
    "a server starts after the application, by the Collector": Scenario(
        {
            f"llamatelemetry_server_up{{{SERVER}}}": f"_x{STEPS}",
            f"llamatelemetry_server_up_ratio{{{SERVER},{JOB}}}": f"_x474 0x{STEPS - 475}",
            f'llamatelemetry_server_up_ratio{{{SERVER},{JOB},gen_ai_provider_name="vllm"}}': (
                f"_x475 1x{STEPS - 476}"
            ),
        },
        set(),
    ),
    "a server was never up, by the Collector": Scenario(
        {
            f"llamatelemetry_server_up{{{SERVER}}}": f"_x{STEPS}",
            f"llamatelemetry_server_up_ratio{{{SERVER},{JOB}}}": f"0x{STEPS}",
            # The other server of the same machine.
            'llamatelemetry_server_up_ratio{server_address="gpu-1",server_port="8001",'
            f'{JOB},gen_ai_provider_name="vllm"}}': f"1x{STEPS}",
        },
        {("LlmServerDown", "critical")},
    ),
    "a queue grows": changed(
        f"llamatelemetry_server_requests_waiting{{{SERVER}}}", f"0+1x{STEPS}", "LlmQueueGrowing"
    ),
    "a queue is long but stable": Scenario(
        {f"llamatelemetry_server_requests_waiting{{{SERVER}}}": f"9x{STEPS}"}, set()
    ),
    "a KV cache is full": changed(KV_CACHE, f"0.97x{STEPS}", "LlmKvCacheNearlyFull"),
    "a KV cache is full, by the Collector": changed(
        KV_CACHE.replace("usage", "usage_ratio"), f"0.97x{STEPS}", "LlmKvCacheNearlyFull"
    ),
    "requests are preempted": changed(
        f"llamatelemetry_server_preemptions_total{{{SERVER}}}", f"0+6x{STEPS}", "LlmPreemptions"
    ),
    "a server restarts": Scenario(
        {f"llamatelemetry_server_preemptions_total{{{SERVER}}}": f"7x400 0x{STEPS - 401}"}, set()
    ),
    "a GPU is too hot": changed(
        f'{THROTTLED}{{{GPU},llamatelemetry_gpu_throttle_reason="hw_thermal"}}',
        f"1x{STEPS}",
        "GpuThrottled",
    ),
    "a GPU is degraded": changed(
        f'hw_status{{{GPU},hw_state="degraded"}}', f"1x{STEPS}", "GpuFailing", "critical"
    ),
    "a GPU has an uncorrected error": changed(
        f'hw_errors_total{{{GPU},error_type="uncorrected"}}',
        f"2x460 3x{STEPS - 461}",
        "GpuFailing",
        "critical",
    ),
    # Six days at 1 J a token, then 1.5 J.
    "energy per token rises by half": Scenario(
        {
            f"hw_energy_joules_total{{{GPU}}}": f"0+3600x144 518400+5400x{HOURS - 145}",
            f'gen_ai_client_token_usage_sum{{{JOB},gen_ai_token_type="output"}}': f"0+3600x{HOURS}",
        },
        {("EnergyPerTokenUp", "warning")},
        "1h",
    ),
    # Each service on a machine reports its GPUs.
    "another service reports the same GPU": Scenario(
        {
            f"hw_energy_joules_total{{{GPU},{JOB}}}": f"0+3600x{HOURS}",
            f'hw_energy_joules_total{{{GPU},job="batch"}}': f"_x144 0+3600x{HOURS - 145}",
            f'gen_ai_client_token_usage_sum{{{JOB},gen_ai_token_type="output"}}': f"0+3600x{HOURS}",
        },
        set(),
        "1h",
    ),
    "a GPU takes more energy after the process that reports it is replaced": Scenario(
        {
            f'hw_energy_joules_total{{{GPU},{JOB},instance="a"}}': f"0+3600x180 _x{HOURS - 181}",
            f'hw_energy_joules_total{{{GPU},{JOB},instance="b"}}': f"_x180 0+7200x{HOURS - 181}",
            f'gen_ai_client_token_usage_sum{{{JOB},gen_ai_token_type="output"}}': f"0+3600x{HOURS}",
        },
        {("EnergyPerTokenUp", "warning")},
        "1h",
    ),
    "energy per token rises by a tenth": Scenario(
        {
            f"hw_energy_joules_total{{{GPU}}}": f"0+3600x144 518400+3960x{HOURS - 145}",
            f'gen_ai_client_token_usage_sum{{{JOB},gen_ai_token_type="output"}}': f"0+3600x{HOURS}",
        },
        set(),
        "1h",
    ),
    "a service ends": changed(
        f"target_info{{{JOB}}}", f"1x400 _x{STEPS - 401}", "NoTelemetry", "critical"
    ),
    "spans are dropped": changed(
        f'otel_sdk_processor_span_processed_total{{{JOB},error_type="queue_full"}}',
        f"0+1x{STEPS}",
        "TelemetryLost",
    ),
    "exports fail": changed(
        f'otel_sdk_exporter_metric_data_point_exported_total{{{JOB},error_type="503"}}',
        f"0+1x{STEPS}",
        "TelemetryLost",
    ),
    "exports are rejected": changed(
        f'otel_sdk_exporter_operation_duration_seconds_count{{{JOB},http_response_status_code="401"}}',
        f"0+1x{STEPS}",
        "TelemetryLost",
    ),
    "redaction fails once": changed(
        f"llamatelemetry_redaction_failures_total{{{JOB}}}",
        f"_x440 1x{STEPS - 441}",
        "TelemetryLost",
    ),
}


def groups(path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text())["groups"]


def rule_test(scenario: Scenario) -> dict[str, object]:
    """Return a test of promtool: the alerts that fire at the end, by name and severity."""
    steps = HOURS if scenario.step == "1h" else STEPS
    # Other series of a test in hours would be older than Prometheus looks back.
    healthy = HEALTHY if scenario.step == "1m" else {}
    series = {**healthy, **scenario.changes}
    return {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "2m" if scenario.step == "1m" else scenario.step,
        # Recording rules first: an hour later their values would be too old for the alerts.
        "group_eval_order": [group["name"] for path in reversed(RULES) for group in groups(path)],
        "tests": [
            {
                "interval": scenario.step,
                "input_series": [{"series": name, "values": v} for name, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{steps - 1}{scenario.step[-1]}",
                        "exp_samples": [
                            {
                                "labels": f'{{alertname="{name}", severity="{severity}"}}',
                                "value": 1,
                            }
                            for name, severity in sorted(scenario.firing)
                        ],
                    }
                ],
            }
        ],
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_fires_its_alerts_only(name: str, tmp_path: Path):
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(rule_test(SCENARIOS[name])))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_scenario():
    alerts = {each.place.removeprefix("alert: ") for each in rule_expressions("alert")}
    assert alerts == {name for each in SCENARIOS.values() for name, _ in each.firing}


def test_rules_are_valid():
    subprocess.run(["promtool", "check", "rules", *RULES], check=True, capture_output=True)


def test_every_alert_has_a_runbook_with_its_next_steps():
    rules = [r for path in RULES for group in groups(path) for r in group["rules"] if "alert" in r]
    pages = {rule["annotations"]["runbook"].removeprefix("docs/operate/alerts/") for rule in rules}
    assert pages == {f"{rule['alert']}.md" for rule in rules}
    folder = ROOT / "docs/operate/alerts"
    assert pages == {path.name for path in folder.glob("*.md")} - {"README.md"}
    for page in pages:
        text = (folder / page).read_text()
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Meaning", "Next steps", "Remedies"], page
        assert "```promql\n" in text, page
        assert "`llamatelemetry why" in text, page


def test_runbooks_name_existing_panels():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    titles = {board["title"] for board in boards}
    # Rows, too.
    titles |= {panel["title"] for board in boards for panel in board["panels"]}
    titles |= {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    titles.add("Traces")  # a link of the dashboards
    for path in (ROOT / "docs/operate/alerts").glob("*.md"):
        named = re.findall(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])", path.read_text())
        assert {*named} <= titles, path.name
