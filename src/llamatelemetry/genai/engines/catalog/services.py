"""Services that report the times of a call, and the others."""

from __future__ import annotations

from typing import Final

from llamatelemetry.genai.engines import proofs
from llamatelemetry.genai.engines.catalog.entry import (
    CACHED,
    CHAT,
    DECODE,
    DRAFTS,
    NO_DRAFTS,
    NOT_REPORTED,
    PREFILL,
    QUEUE,
    TPOT,
    TTFT,
    USAGE,
    Engine,
    Route,
    Source,
    Unknown,
    only_cached,
)

_NO_TPOT: Final = "where its decode time starts is not documented"

SERVICES: Final = (
    Engine(
        proofs.GROQ,
        "Groq",
        "`x_groq.id`",
        (
            Route(
                CHAT[:1],
                (Source((QUEUE, PREFILL, DECODE, CACHED), "", USAGE),),
                (
                    Unknown((TTFT,), "whether queue and prefill adjoin is not documented"),
                    Unknown((TPOT,), _NO_TPOT),
                    NO_DRAFTS,
                ),
            ),
        ),
        metrics=None,
    ),
    Engine(
        proofs.CEREBRAS,
        "Cerebras",
        "`time_info`",
        (
            Route(
                CHAT[:1],
                (Source((QUEUE, PREFILL, DECODE)), Source((CACHED,), "", USAGE)),
                (
                    Unknown((TTFT,), "its parts do not add up to its total"),
                    Unknown((TPOT,), _NO_TPOT),
                    NO_DRAFTS,
                ),
            ),
        ),
        metrics=None,
    ),
    Engine(
        proofs.FIREWORKS,
        "Fireworks",
        "headers `fireworks-*`, or `perf_metrics` with `server-time-to-first-token`",
        (
            Route(
                CHAT[:1],
                (
                    Source(
                        (QUEUE, PREFILL, DECODE, TTFT, CACHED),
                        "a dedicated deployment",
                        "`perf_metrics_in_response: true` in the request",
                    ),
                ),
                (
                    Unknown((TPOT,), _NO_TPOT),
                    Unknown((DRAFTS,), "accepted drafts are rates without a count"),
                ),
            ),
        ),
        metrics=None,
    ),
    Engine(
        proofs.SAMBANOVA,
        "SambaNova",
        "`completion_tokens_after_first_per_sec` in the usage",
        (
            Route(
                CHAT[:1],
                (),
                (
                    Unknown(
                        (TTFT,),
                        "whether `time_to_first_token` contains the queue is not documented",
                    ),
                    Unknown((QUEUE, PREFILL, DECODE, TPOT, CACHED, DRAFTS), NOT_REPORTED),
                ),
            ),
        ),
        metrics=None,
    ),
    Engine(
        "",
        "OpenAI, Azure OpenAI and other services",
        "the host name of the client's URL",
        (
            only_cached(
                "headers such as `openai-processing-ms` are totals, and on streams times to the"
                " headers"
            ),
        ),
        metrics=None,
    ),
)
