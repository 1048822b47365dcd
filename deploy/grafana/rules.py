"""Prometheus recording rules and alerts.

The objectives are three constant rules. Change them there, or in the generated file.
"""

from __future__ import annotations

from typing import Any

RUNBOOKS = "docs/operate/alerts"
WINDOWS = ("5m", "30m", "1h", "6h")
BUDGETS = {"errors": 0.01, "ttft": 0.05, "tpot": 0.05}
"""Share of events that may be bad, by objective."""

CALLS = "gen_ai_client_operation_duration_seconds_count"
FIRST_CHUNK = "gen_ai_client_operation_time_to_first_chunk_seconds"
REDACTION = "llamatelemetry_redaction_failures_total"
REQUESTS = "otel_sdk_exporter_operation_duration_seconds_count"
REJECTED = 'http_response_status_code=~"[345].."'
PER_CHUNK = "gen_ai_client_operation_time_per_output_chunk_seconds"


def servers_up(selector: str = "") -> str:
    """Return whether each server is up, by address and port.

    The engine of a server is unknown until its first scrape. The Collector exposes such a series,
    with the value 0, for minutes after the engine is known.
    """
    up = '{__name__=~"llamatelemetry_server_up(_ratio)?",gen_ai_provider_name%s%s}'
    by = "job, instance, url_path, server_address, server_port"
    known, unknown = (f"min by ({by}) ({up % (value, selector)})" for value in ('!=""', '=""'))
    return f"min by (server_address, server_port) ({known} or {unknown})"


def _bad_share(slo: str, window: str) -> str:
    def rate(series: str) -> str:
        return f"sum by (job) (rate({series}[{window}]))"

    if slo == "errors":
        failed, calls = rate(f'{CALLS}{{error_type!=""}}'), rate(CALLS)
        return f"({failed} or 0 * {calls}) / ({calls} > 0)"
    # The boundary is one of the histogram, written alike by both exporters.
    name, boundary = (FIRST_CHUNK, "2.56") if slo == "ttft" else (PER_CHUNK, "0.16")
    good, every = rate(f'{name}_bucket{{le="{boundary}"}}'), rate(f"{name}_count")
    return f"1 - {good} / ({every} > 0)"


def recording_rules() -> list[dict[str, Any]]:
    """Return the groups of recording rules."""
    budgets = [
        {
            "record": "llamatelemetry:slo_error_budget:ratio",
            "expr": f"vector({budget})",
            "labels": {"slo": slo},
        }
        for slo, budget in BUDGETS.items()
    ]
    ratios = [
        {
            "record": f"llamatelemetry:slo_error_ratio:rate{window}",
            "expr": _bad_share(slo, window),
            "labels": {"slo": slo},
        }
        for window in WINDOWS
        for slo in BUDGETS
    ]
    burns = [
        {
            "record": f"llamatelemetry:slo_burn_rate:{window}",
            "expr": f"llamatelemetry:slo_error_ratio:rate{window} / on (slo) group_left () "
            "llamatelemetry:slo_error_budget:ratio",
        }
        for window in WINDOWS
    ]
    # Each service on a machine reports the GPUs, one of its processes after another.
    energy = {
        "record": "llamatelemetry:energy_per_output_token:joules1d",
        "expr": "sum(max by (hw_id) (sum by (hw_id, job) (rate(hw_energy_joules_total[1d])))) / "
        '(sum(rate(gen_ai_client_token_usage_sum{gen_ai_token_type="output"}[1d])) > 0)',
    }
    return [
        {"name": "llamatelemetry-slo", "rules": [*budgets, *ratios, *burns]},
        {"name": "llamatelemetry-energy", "interval": "2m", "rules": [energy]},
    ]


def _alert(
    name: str, expr: str, summary: str, *, wait: str = "0m", severity: str = "warning"
) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": name, "expr": expr}
    if wait != "0m":
        rule["for"] = wait
    rule["labels"] = {"severity": severity}
    rule["annotations"] = {"summary": summary, "runbook": f"{RUNBOOKS}/{name}.md"}
    return rule


def _burns(name: str, slo: str, what: str) -> list[dict[str, Any]]:
    def burn(window: str, limit: float) -> str:
        return f'llamatelemetry:slo_burn_rate:{window}{{slo="{slo}"}} > {limit}'

    return [
        _alert(
            name,
            f"{burn(long, limit)} and {burn(short, limit)}",
            f"{{{{ $labels.job }}}}: {what}. The error budget is used "
            "{{ $value | humanize }} times too fast.",
            wait=wait,
            severity=severity,
        )
        for long, short, limit, wait, severity in (
            ("1h", "5m", 14.4, "2m", "critical"),
            ("6h", "30m", 6, "15m", "warning"),
        )
    ]


SERVER = "{{ $labels.server_address }}:{{ $labels.server_port }}"
GPU = "{{ $labels.hw_name }} {{ $labels.hw_id }}"


def alerts() -> list[dict[str, Any]]:
    """Return the groups of alerts."""
    waiting = "sum by (server_address, server_port) (llamatelemetry_server_requests_waiting)"
    energy = "llamatelemetry:energy_per_output_token:joules1d"
    calls = [
        *_burns("LlmErrorBudgetBurn", "errors", "too many calls fail"),
        *_burns("LlmTtftBudgetBurn", "ttft", "too many streams start late"),
        *_burns("LlmTpotBudgetBurn", "tpot", "too many streams are slow"),
    ]
    engines = [
        _alert(
            "LlmServerDown",
            f"{servers_up()} == 0",
            f"The inference server {SERVER} does not respond.",
            wait="2m",
            severity="critical",
        ),
        _alert(
            "LlmQueueGrowing",
            f"min_over_time(({waiting})[10m:30s]) > 0 and deriv(({waiting})[10m:30s]) > 0",
            f"The queue of {SERVER} has grown for 15 minutes.",
            wait="5m",
        ),
        _alert(
            "LlmKvCacheNearlyFull",
            "max by (server_address, server_port) "
            '({__name__=~"llamatelemetry_server_kv_cache_usage(_ratio)?"}) > 0.95',
            f"The KV cache of {SERVER} is {{{{ $value | humanizePercentage }}}} full.",
            wait="5m",
        ),
        _alert(
            "LlmPreemptions",
            "sum by (server_address, server_port) "
            "(rate(llamatelemetry_server_preemptions_total[10m])) > 0.01",
            f"{SERVER} preempts {{{{ $value | humanize }}}} requests per second.",
            wait="5m",
        ),
    ]
    gpus = [
        _alert(
            "GpuThrottled",
            "max by (hw_id, hw_name, llamatelemetry_gpu_throttle_reason) "
            '(llamatelemetry_gpu_throttled{llamatelemetry_gpu_throttle_reason!="power_cap"}) == 1',
            f"{GPU} is throttled: {{{{ $labels.llamatelemetry_gpu_throttle_reason }}}}.",
            wait="5m",
        ),
        _alert(
            "GpuFailing",
            'max by (hw_id, hw_name) (hw_status{hw_state=~"degraded|failed"}) == 1 or '
            'max by (hw_id, hw_name) (increase(hw_errors_total{error_type="uncorrected"}[1h])) > 0',
            f"{GPU} has failed or has uncorrected memory errors.",
            severity="critical",
        ),
        _alert(
            "EnergyPerTokenUp",
            f"{energy} > 4 / 3 * {energy} offset 1w",
            "A token takes {{ $value | humanize }} J, a third more than a week ago.",
            wait="1h",
        ),
    ]
    telemetry = [
        _alert(
            "NoTelemetry",
            "count by (job) (present_over_time(target_info[1d])) unless count by (job) (target_info)",
            "{{ $labels.job }} sends no metrics any more.",
            wait="10m",
            severity="critical",
        ),
        _alert(
            "TelemetryLost",
            'sum by (job) (rate({__name__=~"otel_sdk_processor_(span|log)_processed_total|'
            'otel_sdk_exporter_(span|log|metric_data_point)_exported_total",error_type!=""}[10m])) '
            # The OTLP exporter over HTTP counts the items of a rejected request as exported.
            f"> 0 or sum by (job) (rate({REQUESTS}{{{REJECTED}}}[10m])) > 0 or "
            # The series does not exist before the first failure, so `increase` misses that one.
            f"sum by (job) (increase({REDACTION}[1h])) > 0 or "
            f"sum by (job) ({REDACTION} unless {REDACTION} offset 1h)",
            "{{ $labels.job }} loses telemetry: dropped, not exported, or not redacted.",
            wait="10m",
        ),
    ]
    return [
        {"name": "llamatelemetry-calls", "rules": calls},
        {"name": "llamatelemetry-engines", "rules": engines},
        {"name": "llamatelemetry-gpus", "rules": gpus},
        {"name": "llamatelemetry-telemetry", "rules": telemetry},
    ]
