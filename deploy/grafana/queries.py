"""PromQL that several dashboards share.

The queries accept the names of both Prometheus exporters: that of the application and that of the
OpenTelemetry Collector, which appends `_ratio` to gauges with the unit `1`.
"""

from __future__ import annotations

from model import Panel, Query, Variable

CLIENT = 'job=~"$service",gen_ai_request_model=~"$model",server_address=~"$server"'
ENGINE = 'server_address=~"$server"'
GPU = 'hw_name=~"$gpu"'
SERVICE = 'job=~"$service"'
ERROR = 'error_type!=""'
RATE = "[$__rate_interval]"
BY_SERVER = "server_address, server_port"
SERVER = "{{server_address}}:{{server_port}}"
MODEL = "{{job}} {{gen_ai_request_model}}"
BY_MODEL = "job, gen_ai_request_model"

CALLS = "gen_ai_client_operation_duration_seconds_count"
TOKENS = "gen_ai_client_token_usage_sum"

SERVICES = Variable("service", "Service", "label_values(target_info, job)")
MODELS = Variable(
    "model", "Model", f'label_values({CALLS}{{job=~"$service"}}, gen_ai_request_model)'
)
SERVERS = Variable("server", "Server", f"label_values({CALLS}, server_address)")
ENGINES = Variable(
    "server", "Server", "label_values(llamatelemetry_server_requests_running, server_address)"
)
GPUS = Variable("gpu", "GPU", "label_values(hw_energy_joules_total, hw_name)")


def ratio(name: str, selector: str) -> str:
    """Return a selector of a gauge with the unit 1, under the names of both exporters."""
    return f'{{__name__=~"{name}(_ratio)?",{selector}}}'


def rate(name: str, selector: str, by: str) -> str:
    """Return the rate of a counter, summed by some labels."""
    return f"sum by ({by}) (rate({name}{{{selector}}}{RATE}))"


def quantile(q: float, name: str, selector: str, by: str) -> str:
    """Return a quantile of a histogram by some labels."""
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({name}{{{selector}}}{RATE})))"


def engine_mean(name: str) -> str:
    """Return the mean of a duration that the engine measures, by server."""
    total = rate(f"llamatelemetry_server_{name}_seconds_total", ENGINE, BY_SERVER)
    return f"{total} / ({rate(f'llamatelemetry_server_{name}_count_total', ENGINE, BY_SERVER)} > 0)"


def engine_rate(name: str, by: str = BY_SERVER) -> str:
    """Return the rate of a counter of the engines, by server."""
    return rate(f"llamatelemetry_server_{name}_total", ENGINE, by)


def share(part: str, whole: str) -> str:
    """Return the quotient of two rates, without a value while the divisor is 0."""
    return f"{part} / ({whole} > 0)"


def error_share(by: str) -> str:
    """Return the share of failed calls, 0 without failures."""
    everything = rate(CALLS, CLIENT, by)
    failed = rate(CALLS, f"{CLIENT},{ERROR}", by)
    return f"({failed} or 0 * {everything}) / ({everything} > 0)"


PHASES = Panel(
    "Requests by phase",
    "Mean number of requests in the queue, in prefill and in decode: seconds of the phase per "
    "second. Many in the queue ask for more slots or servers, many in prefill for shorter or "
    "cached prompts. llama.cpp reports no queue time.",
    "short",
    [
        Query(
            rate(f"llamatelemetry_server_{phase}_time_seconds_total", ENGINE, BY_SERVER),
            f"{phase} {SERVER}",
        )
        for phase in ("queue", "prefill", "decode")
    ],
)
QUEUE = Panel(
    "Queue, prefill and decode",
    "Mean time of a request in each phase, by engines that count it (vLLM, SGLang).",
    "s",
    [
        Query(engine_mean(f"{phase}_time"), f"{phase} {SERVER}")
        for phase in ("queue", "prefill", "decode")
    ],
)
WAITING = Panel(
    "Requests waiting",
    "Requests in the engine's queue. A value that keeps growing means that requests arrive faster "
    "than the server completes them.",
    "short",
    [Query(f"sum by ({BY_SERVER}) (llamatelemetry_server_requests_waiting{{{ENGINE}}})", SERVER)],
    warning=1,
    critical=10,
)
CACHED = Panel(
    "Cache hit ratio",
    "Share of prompt tokens that the engine took from its cache instead of computing them. A drop "
    "makes TTFT longer.",
    "percentunit",
    [Query(share(engine_rate("cached_tokens"), engine_rate("prompt_tokens")), SERVER)],
    maximum=1,
)
