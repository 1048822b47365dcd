"""The dashboard of GPUs and energy."""

from __future__ import annotations

from model import Dashboard, Panel, Query
from queries import GPU, GPUS, RATE, TOKENS, ratio

BY_GPU = "hw_id, hw_name"
GPU_NAME = "{{hw_name}} {{hw_id}}"


def gpu_gauge(name: str) -> Query:
    """Return the value of each GPU. Several processes may report the same GPU."""
    return Query(f"max by ({BY_GPU}) ({name}{{{GPU}}})", GPU_NAME)


def gpu_ratio(name: str, more: str = "") -> Query:
    """Return the value of each GPU for a gauge with the unit 1."""
    return Query(f"max by ({BY_GPU}) ({ratio(name, GPU + more)})", GPU_NAME)


GPU_BOARD = Dashboard(
    "llamatelemetry-gpu",
    "GPU and energy",
    "NVIDIA GPUs of the machines that run the applications or engines, and the energy of tokens.",
    {
        "Energy": [
            Panel(
                "Energy per output token",
                "Energy of the selected GPUs over the output tokens of all calls. It includes idle "
                "power, so it rises when the load falls.",
                "joule",
                [
                    Query(
                        f"sum(max by (hw_id) (rate(hw_energy_joules_total{{{GPU}}}{RATE}))) / "
                        f"(sum(rate({TOKENS}"
                        f'{{gen_ai_token_type="output"}}{RATE})) > 0)',
                        "per token",
                    )
                ],
            ),
            Panel(
                "Power",
                "Power of each GPU, and its enforced limit.",
                "watt",
                [
                    gpu_gauge("hw_power_watts"),
                    Query(
                        f"max by ({BY_GPU}) (llamatelemetry_gpu_power_limit_watts{{{GPU}}})",
                        f"limit {GPU_NAME}",
                    ),
                ],
            ),
            Panel(
                "Energy per hour",
                "Energy that each GPU uses in an hour at the present rate.",
                "watth",
                [
                    Query(
                        f"max by ({BY_GPU}) (rate(hw_energy_joules_total{{{GPU}}}{RATE}))", GPU_NAME
                    )
                ],
            ),
        ],
        "Load": [
            Panel(
                "Utilization",
                "Fraction of time in which the GPU computed. It does not show how many of its "
                "units were busy.",
                "percentunit",
                [gpu_ratio("hw_gpu_utilization", ',hw_gpu_task="general"')],
                maximum=1,
            ),
            Panel(
                "Memory used",
                "Share of the GPU memory that is used.",
                "percentunit",
                [gpu_ratio("hw_gpu_memory_utilization")],
                warning=0.9,
                critical=0.97,
                maximum=1,
            ),
            Panel(
                "Memory activity",
                "Fraction of time in which GPU memory was read or written. Decode is limited by "
                "memory: near 1 a larger batch gives more tokens per second.",
                "percentunit",
                [gpu_ratio("llamatelemetry_gpu_memory_activity")],
                maximum=1,
            ),
            Panel(
                "Memory of processes",
                "GPU memory of this service and of the local servers that it calls.",
                "bytes",
                [
                    Query(
                        "max by (hw_id, process_pid) "
                        f"(llamatelemetry_gpu_process_memory_bytes{{{GPU}}})",
                        "process {{process_pid}} {{hw_id}}",
                    )
                ],
            ),
            Panel(
                "PCIe traffic",
                "Bytes per second over PCIe.",
                "Bps",
                [
                    Query(
                        f"max by ({BY_GPU}, network_io_direction) "
                        f"(rate(hw_gpu_io_bytes_total{{{GPU}}}{RATE}))",
                        f"{{{{network_io_direction}}}} {GPU_NAME}",
                    )
                ],
            ),
            Panel(
                "NVLink traffic",
                "Payload bytes per second over all NVLinks of the GPU.",
                "Bps",
                [
                    Query(
                        f"max by ({BY_GPU}, network_io_direction) "
                        f"(rate(llamatelemetry_gpu_nvlink_io_bytes_total{{{GPU}}}{RATE}))",
                        f"{{{{network_io_direction}}}} {GPU_NAME}",
                    )
                ],
            ),
        ],
        "Health": [
            Panel(
                "Temperature",
                "Temperature of the GPU. Most data center GPUs throttle from about 85 °C.",
                "celsius",
                [gpu_gauge("hw_temperature_celsius")],
                warning=80,
                critical=87,
            ),
            Panel(
                "Throttling",
                "1 while the clocks are lowered for a reason. `power_cap` is normal under full "
                "load; the others cost speed without need.",
                "short",
                [
                    Query(
                        f"max by ({BY_GPU}, llamatelemetry_gpu_throttle_reason) "
                        f"(llamatelemetry_gpu_throttled{{{GPU}}})",
                        f"{{{{llamatelemetry_gpu_throttle_reason}}}} {GPU_NAME}",
                    )
                ],
                maximum=1,
            ),
            Panel(
                "Status",
                "1 for the present state of each GPU: ok, degraded or failed.",
                "short",
                [
                    Query(
                        f"max by ({BY_GPU}, hw_state) (hw_status{{{GPU}}})",
                        f"{{{{hw_state}}}} {GPU_NAME}",
                    )
                ],
                maximum=1,
            ),
            Panel(
                "Memory errors",
                "Errors of the GPU memory per hour. Uncorrected errors end the process that uses "
                "the memory.",
                "short",
                [
                    Query(
                        f"max by ({BY_GPU}, error_type) "
                        f"(3600 * rate(hw_errors_total{{{GPU}}}{RATE}))",
                        f"{{{{error_type}}}} {GPU_NAME}",
                    )
                ],
            ),
            Panel(
                "Clock",
                "Clock frequency of the multiprocessors and the memory.",
                "hertz",
                [
                    Query(
                        f"max by ({BY_GPU}, llamatelemetry_gpu_clock_domain) "
                        f"(llamatelemetry_gpu_clock_hertz{{{GPU}}})",
                        f"{{{{llamatelemetry_gpu_clock_domain}}}} {GPU_NAME}",
                    )
                ],
            ),
            Panel(
                "Time per reading",
                "p95 of the time that one reading of all GPUs takes.",
                "s",
                [
                    Query(
                        "histogram_quantile(0.95, sum by (le, job) (rate("
                        f"llamatelemetry_gpu_sampling_duration_seconds_bucket{RATE})))",
                        "{{job}}",
                    )
                ],
            ),
        ],
    },
    (GPUS,),
)
