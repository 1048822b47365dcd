"""The dashboard of model calls."""

from __future__ import annotations

from model import Dashboard, Panel, Query
from queries import (
    BY_MODEL,
    BY_SERVER,
    CACHED,
    CALLS,
    CLIENT,
    ENGINE,
    ERROR,
    MODEL,
    MODELS,
    PHASES,
    QUEUE,
    RATE,
    SERVER,
    SERVERS,
    SERVICES,
    TOKENS,
    WAITING,
    error_share,
    quantile,
    rate,
    share,
)

INFERENCE = Dashboard(
    "llamatelemetry-inference",
    "LLM inference",
    "Calls to models as the applications see them, joined with the phases that the engines report.",
    {
        "Overview": [
            Panel(
                "Requests",
                "Model calls per second of the selected services.",
                "reqps",
                [Query(f"sum(rate({CALLS}{{{CLIENT}}}{RATE}))", "requests")],
                is_stat=True,
            ),
            Panel(
                "Error ratio",
                "Share of calls that failed, for whatever reason. Errors of the application's own "
                "requests (status 400) count, too.",
                "percentunit",
                [
                    Query(
                        f"(sum(rate({CALLS}{{{CLIENT},{ERROR}}}{RATE})) or vector(0)) / "
                        f"(sum(rate({CALLS}{{{CLIENT}}}{RATE})) > 0)",
                        "errors",
                    )
                ],
                warning=0.01,
                critical=0.05,
                is_stat=True,
            ),
            Panel(
                "TTFT p95",
                "95th percentile of the time from the request to the first chunk of a stream.",
                "s",
                [
                    Query(
                        "histogram_quantile(0.95, sum by (le) (rate("
                        "gen_ai_client_operation_time_to_first_chunk_seconds_bucket"
                        f"{{{CLIENT}}}{RATE})))",
                        "p95",
                    )
                ],
                warning=1,
                critical=2.56,
                is_stat=True,
            ),
            Panel(
                "Output tokens",
                "Tokens per second that the models returned.",
                "short",
                [Query(f'sum(rate({TOKENS}{{{CLIENT},gen_ai_token_type="output"}}{RATE}))', "")],
                is_stat=True,
            ),
            Panel(
                "Requests waiting",
                "Requests in the queues of the selected servers.",
                "short",
                [Query(f"sum(llamatelemetry_server_requests_waiting{{{ENGINE}}})", "waiting")],
                warning=1,
                critical=10,
                is_stat=True,
            ),
            Panel(
                "Cache hit ratio",
                "Share of prompt tokens that the engines took from their caches.",
                "percentunit",
                [
                    Query(
                        f"sum(rate(llamatelemetry_server_cached_tokens_total{{{ENGINE}}}{RATE})) / "
                        f"(sum(rate(llamatelemetry_server_prompt_tokens_total{{{ENGINE}}}{RATE})) "
                        "> 0)",
                        "cached",
                    )
                ],
                is_stat=True,
            ),
        ],
        "Calls": [
            Panel(
                "Requests by service and model",
                "Model calls per second of each service.",
                "reqps",
                [Query(rate(CALLS, CLIENT, BY_MODEL), MODEL)],
            ),
            Panel(
                "Requests by server",
                "Model calls per second to each server. Uneven lines show a load balancer that "
                "does not spread the load.",
                "reqps",
                [Query(rate(CALLS, CLIENT, BY_SERVER), SERVER)],
            ),
            Panel(
                "Errors by type",
                "Failed calls per second by `error.type`: the class of the exception or the status "
                "of the response.",
                "reqps",
                [
                    Query(
                        rate(CALLS, f"{CLIENT},{ERROR}", "job, server_address, error_type"),
                        "{{job}} {{error_type}} {{server_address}}",
                    )
                ],
            ),
            Panel(
                "Error ratio by model",
                "Share of calls that failed.",
                "percentunit",
                [Query(error_share(BY_MODEL), MODEL)],
                warning=0.01,
                critical=0.05,
            ),
            Panel(
                "Tokens per second",
                "Input and output tokens per second.",
                "short",
                [
                    Query(
                        rate(TOKENS, CLIENT, "gen_ai_request_model, gen_ai_token_type"),
                        "{{gen_ai_token_type}} {{gen_ai_request_model}}",
                    )
                ],
            ),
            Panel(
                "Tokens per request",
                "Mean number of input and output tokens of a call. More input tokens make prefill "
                "longer, more output tokens decode.",
                "short",
                [
                    Query(
                        share(
                            rate(TOKENS, CLIENT, "gen_ai_request_model, gen_ai_token_type"),
                            rate(
                                "gen_ai_client_token_usage_count",
                                CLIENT,
                                "gen_ai_request_model, gen_ai_token_type",
                            ),
                        ),
                        "{{gen_ai_token_type}} {{gen_ai_request_model}}",
                    )
                ],
            ),
        ],
        "Latency": [
            Panel(
                "Duration",
                "Duration of whole calls. Open an exemplar to see its trace.",
                "s",
                [
                    Query(
                        quantile(
                            q, "gen_ai_client_operation_duration_seconds_bucket", CLIENT, BY_MODEL
                        ),
                        f"p{q * 100:.0f} {MODEL}",
                    )
                    for q in (0.5, 0.95, 0.99)
                ],
            ),
            Panel(
                "Time to first token (TTFT)",
                "Client: from the request to the first chunk of a stream. Engine: queue and "
                "prefill. The difference is the network and the gateway.",
                "s",
                [
                    Query(
                        quantile(
                            0.95,
                            "gen_ai_client_operation_time_to_first_chunk_seconds_bucket",
                            CLIENT,
                            BY_MODEL,
                        ),
                        f"client p95 {MODEL}",
                    ),
                    Query(
                        quantile(
                            0.95,
                            "gen_ai_server_time_to_first_token_seconds_bucket",
                            CLIENT,
                            BY_MODEL,
                        ),
                        f"engine p95 {MODEL}",
                    ),
                ],
                warning=1,
                critical=2.56,
            ),
            Panel(
                "Time per output token (TPOT)",
                "Client: time between two chunks of a stream. Engine: decode time per token.",
                "s",
                [
                    Query(
                        quantile(
                            0.95,
                            "gen_ai_client_operation_time_per_output_chunk_seconds_bucket",
                            CLIENT,
                            BY_MODEL,
                        ),
                        f"client p95 {MODEL}",
                    ),
                    Query(
                        quantile(
                            0.95,
                            "gen_ai_server_time_per_output_token_seconds_bucket",
                            CLIENT,
                            BY_MODEL,
                        ),
                        f"engine p95 {MODEL}",
                    ),
                ],
                warning=0.08,
                critical=0.16,
            ),
            PHASES,
            QUEUE,
            WAITING,
            CACHED,
        ],
    },
    (SERVICES, MODELS, SERVERS),
)
