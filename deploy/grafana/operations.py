"""The dashboards of telemetry health and of service level objectives."""

from __future__ import annotations

from model import Dashboard, Panel, Query
from queries import RATE, SERVICE, SERVICES, rate
from rules import REJECTED, REQUESTS

LOST = 'error_type!=""'
HEALTH = Dashboard(
    "llamatelemetry-health",
    "Telemetry health",
    "Whether the telemetry is complete: what was dropped, not exported, not redacted or sampled.",
    {
        "Applications": [
            Panel(
                "Processes that report",
                "Processes of each service whose metrics arrive.",
                "short",
                [Query(f"count by (job) (target_info{{{SERVICE}}})", "{{job}}")],
            ),
            Panel(
                "Dropped spans",
                "Spans per second that did not fit into the export queue. Raise "
                "`OTEL_BSP_MAX_QUEUE_SIZE`, or the capacity of the Collector.",
                "short",
                [
                    Query(
                        rate(
                            "otel_sdk_processor_span_processed_total",
                            f"{SERVICE},{LOST}",
                            "job, error_type",
                        ),
                        "{{job}} {{error_type}}",
                    )
                ],
                warning=0.01,
                critical=1,
            ),
            Panel(
                "Dropped log records",
                "Log records per second that did not fit into the export queue.",
                "short",
                [
                    Query(
                        rate(
                            "otel_sdk_processor_log_processed_total",
                            f"{SERVICE},{LOST}",
                            "job, error_type",
                        ),
                        "{{job}} {{error_type}}",
                    )
                ],
                warning=0.01,
                critical=1,
            ),
            Panel(
                "Failed exports",
                "Spans, log records and data points per second that the exporter gave up. Needs "
                "`OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=true`.",
                "short",
                [
                    Query(
                        rate(
                            f"otel_sdk_exporter_{item}_exported_total",
                            f"{SERVICE},{LOST}",
                            "job, error_type",
                        ),
                        f"{label} {{{{job}}}} {{{{error_type}}}}",
                    )
                    for item, label in (
                        ("span", "spans"),
                        ("log", "log records"),
                        ("metric_data_point", "data points"),
                    )
                ],
                warning=0.01,
                critical=1,
            ),
            Panel(
                "Rejected exports",
                "Export requests per second to which the receiver responded with an error status. "
                "The SDK's OTLP exporter over HTTP counts their items as exported.",
                "reqps",
                [
                    Query(
                        rate(
                            REQUESTS,
                            f"{SERVICE},{REJECTED}",
                            "job, otel_component_type, http_response_status_code",
                        ),
                        "{{job}} {{otel_component_type}} {{http_response_status_code}}",
                    )
                ],
                warning=0.01,
                critical=1,
            ),
            Panel(
                "Redaction failures",
                "Texts per second that could not be redacted. They were dropped, not exported. "
                "Each is a bug: report it.",
                "short",
                [Query(rate("llamatelemetry_redaction_failures_total", SERVICE, "job"), "{{job}}")],
                critical=0.0001,
            ),
            Panel(
                "Sampling",
                "Spans per second by the decision of the tail sampler in the application. Evicted "
                "spans were dropped because its memory was full.",
                "short",
                [
                    Query(
                        rate(
                            "llamatelemetry_sampling_spans_total",
                            SERVICE,
                            "job, llamatelemetry_sampling_decision",
                        ),
                        "{{job}} {{llamatelemetry_sampling_decision}}",
                    )
                ],
            ),
        ],
        "Collector": [
            Panel(
                "Refused spans",
                "Spans per second that the Collector refused, usually by its memory limiter. "
                "Clients send them again for a while.",
                "short",
                [
                    Query(
                        'sum by (job) (rate({__name__=~"otelcol_receiver_refused_spans(_total)?"}'
                        f"{RATE}))",
                        "{{job}}",
                    )
                ],
                critical=1,
            ),
            Panel(
                "Failed exports of the Collector",
                "Spans per second that the Collector could not export after all retries.",
                "short",
                [
                    Query(
                        "sum by (job, exporter) (rate("
                        '{__name__=~"otelcol_exporter_send_failed_spans(_total)?"}'
                        f"{RATE}))",
                        "{{exporter}}",
                    )
                ],
                critical=0.01,
            ),
            Panel(
                "Export queue of the Collector",
                "Used share of the sending queue. Near 1 the Collector starts to drop.",
                "percentunit",
                [
                    Query(
                        "max by (job, exporter) (otelcol_exporter_queue_size / "
                        "otelcol_exporter_queue_capacity)",
                        "{{exporter}}",
                    )
                ],
                warning=0.5,
                critical=0.9,
                maximum=1,
            ),
        ],
        "Prometheus": [
            Panel(
                "Targets that do not respond",
                "Scrape targets of each job that do not respond.",
                "short",
                [Query(f"sum by (job) (up{{{SERVICE}}} == bool 0)", "{{job}}")],
                critical=1,
            ),
            Panel(
                "Series per target",
                "Samples of one scrape, the largest of each job. A sudden rise is a new attribute "
                "with many values.",
                "short",
                [Query(f"max by (job) (scrape_samples_scraped{{{SERVICE}}})", "{{job}}")],
            ),
            Panel(
                "Scrape duration",
                "Duration of a scrape, the longest of each job.",
                "s",
                [Query(f"max by (job) (scrape_duration_seconds{{{SERVICE}}})", "{{job}}")],
                warning=5,
                critical=10,
            ),
        ],
    },
    (SERVICES,),
)

SLO = Dashboard(
    "llamatelemetry-slo",
    "LLM SLOs",
    "Service level objectives from the recording rules: errors, TTFT and TPOT, and how fast their "
    "error budgets are used.",
    {
        "Objectives": [
            Panel(
                "Success ratio, 6 hours",
                "Share of good events over six hours: calls without an error, streams whose first "
                "chunk came within 2.56 s, chunks that came within 0.16 s of the previous one.",
                "percentunit",
                [
                    Query(
                        f"1 - llamatelemetry:slo_error_ratio:rate6h{{{SERVICE}}}", "{{job}} {{slo}}"
                    )
                ],
                maximum=1,
            ),
            Panel(
                "Error budget",
                "Share of events that may be bad.",
                "percentunit",
                [Query("llamatelemetry:slo_error_budget:ratio", "{{slo}}")],
            ),
            Panel(
                "Budget left, 30 days",
                "Share of the error budget of 30 days that is left. At 0 the objective is missed.",
                "percentunit",
                [
                    Query(
                        "clamp_min(1 - avg_over_time("
                        f"llamatelemetry:slo_burn_rate:6h{{{SERVICE}}}[30d]), 0)",
                        "{{job}} {{slo}}",
                    )
                ],
                maximum=1,
            ),
        ],
        "Burn rates": [
            Panel(
                f"Burn rate, {window}",
                "How many times faster than allowed the error budget is used. At 1 it lasts "
                f"exactly 30 days. The alerts fire at {limit} with the shorter window alike.",
                "short",
                [Query(f"llamatelemetry:slo_burn_rate:{window}{{{SERVICE}}}", "{{job}} {{slo}}")],
                warning=1,
                critical=limit,
            )
            for window, limit in (("5m", 14.4), ("30m", 6), ("1h", 14.4), ("6h", 6))
        ],
    },
    (SERVICES,),
)
