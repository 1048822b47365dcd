"""The common metrics of all inference servers: names, units and meanings.

The semantic conventions define no names for these metrics, so llamatelemetry does. The figures of
each engine are mapped to them in [engines][llamatelemetry.server_metrics.engines]. A figure that an
engine does not expose is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "up-down counter", "gauge"]

PREFIX: Final = "llamatelemetry.server."
FINISH_REASON: Final = "llamatelemetry.finish_reason"
REPLICA: Final = "llamatelemetry.server.replica"
UPPER_BOUND: Final = "le"


@dataclass(frozen=True)
class Figure:
    """One metric.

    Attributes:
        name: Name without `llamatelemetry.server.`.
        unit: Unit in UCUM.
        kind: Instrument.
        description: Description of the instrument.
        detail: Attribute that its data points differ in, if any.
    """

    name: str
    unit: str
    kind: Kind
    description: str
    detail: str | None = None


_DURATIONS: Final = (
    (
        "time_to_first_token",
        "{request}",
        "time from the arrival of a request to its first token, queue included",
    ),
    ("time_between_tokens", "{token}", "time between two steps that generated tokens"),
    ("queue_time", "{request}", "time that requests waited in the engine's queue"),
    ("prefill_time", "{request}", "time that the engine processed prompts"),
    ("decode_time", "{request}", "time from the first to the last token of a request"),
    ("request_time", "{request}", "time from the arrival to the end of a request"),
)
DURATIONS: Final = frozenset(name for name, _, _ in _DURATIONS)


def _duration_figures() -> tuple[Figure, ...]:
    return tuple(
        figure
        for name, unit, meaning in _DURATIONS
        for figure in (
            Figure(name, "s", "counter", f"Sum of the {meaning}."),
            Figure(f"{name}.count", unit, "counter", f"Number of durations in {name}."),
            Figure(
                f"{name}.bucket",
                unit,
                "counter",
                f"Durations in {name} up to the upper bound le, in seconds.",
                UPPER_BOUND,
            ),
        )
    )


UP: Final = Figure("up", "1", "gauge", "1 if the last scrape succeeded, else 0.")
FIGURES: Final = (
    Figure("requests_running", "{request}", "up-down counter", "Requests being processed."),
    Figure(
        "requests_waiting",
        "{request}",
        "up-down counter",
        "Requests that wait in the engine's queue.",
    ),
    Figure("requests_finished", "{request}", "counter", "Finished requests.", FINISH_REASON),
    Figure(
        "kv_cache_usage", "1", "gauge", "Fraction of the KV cache that is in use, 0 to 1.", REPLICA
    ),
    Figure(
        "prefix_cache_queries",
        "{token}",
        "counter",
        "Prompt tokens that were looked up in the prefix cache.",
    ),
    Figure(
        "prefix_cache_hits",
        "{token}",
        "counter",
        "Prompt tokens that were found in the prefix cache.",
    ),
    Figure("prompt_tokens", "{token}", "counter", "Prompt tokens, cached ones included."),
    Figure("cached_tokens", "{token}", "counter", "Prompt tokens taken from the cache."),
    Figure("generated_tokens", "{token}", "counter", "Tokens generated."),
    Figure(
        "preemptions",
        "{preemption}",
        "counter",
        "Running requests that were put back into the queue.",
    ),
    Figure("drafts", "{draft}", "counter", "Drafts of speculative decoding."),
    Figure("drafted_tokens", "{token}", "counter", "Tokens drafted by speculative decoding."),
    Figure("accepted_tokens", "{token}", "counter", "Drafted tokens that the model accepted."),
    *_duration_figures(),
)
"""All metrics except `up`, which is about the scrape and not about the engine."""


def key_of(figure: str, detail: str = "") -> str:
    """Return the key of a value: the figure, and the value of its detail attribute if any."""
    return f"{figure}={detail}" if detail else figure


def split_key(key: str) -> tuple[str, str]:
    """Return figure and detail of a key."""
    figure, _, detail = key.partition("=")
    return figure, detail
