"""Where the time of each call went: parts in milliseconds that add up, with their evidence."""

from llamatelemetry.local.why.explain import Explainer, explain, why
from llamatelemetry.local.why.explanation import (
    APPLICATION,
    CAUSE_TITLES,
    NORMAL,
    PART_TITLES,
    UNKNOWN,
    WORK,
    CallExplanation,
    Explanation,
    Part,
    ServerRates,
)

__all__ = [
    "APPLICATION",
    "CAUSE_TITLES",
    "NORMAL",
    "PART_TITLES",
    "UNKNOWN",
    "WORK",
    "CallExplanation",
    "Explainer",
    "Explanation",
    "Part",
    "ServerRates",
    "explain",
    "why",
]
