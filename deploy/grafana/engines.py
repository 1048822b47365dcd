"""The dashboard of inference servers."""

from __future__ import annotations

from model import Dashboard, Panel, Query
from queries import (
    BY_SERVER,
    CACHED,
    ENGINE,
    ENGINES,
    PHASES,
    QUEUE,
    SERVER,
    WAITING,
    engine_mean,
    engine_rate,
    quantile,
    ratio,
    share,
)
from rules import servers_up


def _latency(title: str, description: str, name: str, *, warning: float, critical: float) -> Panel:
    """Return p95 and mean of a duration from the histogram of the engine."""
    buckets = f"llamatelemetry_server_{name}_bucket_total"
    return Panel(
        title,
        description,
        "s",
        [
            Query(quantile(0.95, buckets, ENGINE, BY_SERVER), f"p95 {SERVER}"),
            Query(engine_mean(name), f"mean {SERVER}"),
        ],
        warning=warning,
        critical=critical,
    )


ENGINES_BOARD = Dashboard(
    "llamatelemetry-engines",
    "LLM engines",
    "What inference servers report about themselves, in one vocabulary for every engine.",
    {
        "Load": [
            Panel(
                "Servers up",
                "1 if the last scrape of the server succeeded, 0 otherwise.",
                "short",
                [Query(servers_up(f",{ENGINE}"), SERVER)],
                maximum=1,
            ),
            Panel(
                "Requests running",
                "Requests that the engine processes now.",
                "short",
                [
                    Query(
                        f"sum by ({BY_SERVER}) "
                        f"(llamatelemetry_server_requests_running{{{ENGINE}}})",
                        SERVER,
                    )
                ],
            ),
            WAITING,
            Panel(
                "Requests finished",
                "Finished requests per second, by finish reason where the engine reports it.",
                "reqps",
                [
                    Query(
                        engine_rate(
                            "requests_finished", f"{BY_SERVER}, llamatelemetry_finish_reason"
                        ),
                        f"{SERVER} {{{{llamatelemetry_finish_reason}}}}",
                    )
                ],
            ),
            Panel(
                "Tokens per second",
                "Prompt tokens, cached ones included, and generated tokens.",
                "short",
                [
                    Query(engine_rate("prompt_tokens"), f"prompt {SERVER}"),
                    Query(engine_rate("generated_tokens"), f"generated {SERVER}"),
                ],
            ),
            Panel(
                "Preemptions",
                "Running requests per second that the engine put back into its queue, because the "
                "KV cache was full. Each one is computed again.",
                "short",
                [Query(engine_rate("preemptions"), SERVER)],
                warning=0.01,
                critical=0.1,
            ),
        ],
        "Caches": [
            Panel(
                "KV cache usage",
                "Used share of the KV cache. Above 0.95 the engine queues or preempts requests.",
                "percentunit",
                [
                    Query(
                        f"max by ({BY_SERVER}) "
                        f"({ratio('llamatelemetry_server_kv_cache_usage', ENGINE)})",
                        SERVER,
                    )
                ],
                warning=0.85,
                critical=0.95,
                maximum=1,
            ),
            Panel(
                "Prefix cache hit ratio",
                "Share of the looked-up prompt tokens that were in the prefix cache.",
                "percentunit",
                [
                    Query(
                        share(
                            engine_rate("prefix_cache_hits"), engine_rate("prefix_cache_queries")
                        ),
                        SERVER,
                    )
                ],
                maximum=1,
            ),
            CACHED,
            Panel(
                "Draft acceptance",
                "Share of drafted tokens that the model accepted (speculative decoding). Below "
                "about 0.5, drafting often costs more than it saves.",
                "percentunit",
                [
                    Query(
                        share(engine_rate("accepted_tokens"), engine_rate("drafted_tokens")), SERVER
                    )
                ],
                maximum=1,
            ),
        ],
        "Latency": [
            PHASES,
            QUEUE,
            _latency(
                "Time to first token",
                "p95 of the engine's own histogram, of all its clients.",
                "time_to_first_token",
                warning=1,
                critical=2.56,
            ),
            _latency(
                "Time between tokens",
                "p95 and mean of the time between two tokens of a request.",
                "time_between_tokens",
                warning=0.08,
                critical=0.16,
            ),
            Panel(
                "Request time",
                "Mean time of a whole request in the engine.",
                "s",
                [Query(engine_mean("request_time"), SERVER)],
            ),
        ],
    },
    (ENGINES,),
)
