"""Benchmarks of inference engines: load, both clocks, statistics, comparison, report.

Importing this package loads nothing; its names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison, FingerprintMismatchError, MetricComparison
    from .load import Ramp
    from .profile import BenchmarkProfile
    from .prompts import Conversation, load_prompts
    from .records import RequestRecord, RunRecord
    from .results import BenchmarkResults
    from .runner import BenchmarkError, BenchmarkRunner
    from .sweep import SweepResults
    from .synthetic import synthetic_prompts

__all__ = [
    "BenchmarkError",
    "BenchmarkProfile",
    "BenchmarkResults",
    "BenchmarkRunner",
    "Comparison",
    "Conversation",
    "FingerprintMismatchError",
    "MetricComparison",
    "Ramp",
    "RequestRecord",
    "RunRecord",
    "SweepResults",
    "load_prompts",
    "synthetic_prompts",
]

_MODULES = {
    "BenchmarkError": "llamatelemetry.bench.runner",
    "BenchmarkProfile": "llamatelemetry.bench.profile",
    "BenchmarkResults": "llamatelemetry.bench.results",
    "BenchmarkRunner": "llamatelemetry.bench.runner",
    "Comparison": "llamatelemetry.bench.comparison",
    "Conversation": "llamatelemetry.bench.prompts",
    "FingerprintMismatchError": "llamatelemetry.bench.comparison",
    "MetricComparison": "llamatelemetry.bench.comparison",
    "Ramp": "llamatelemetry.bench.load",
    "RequestRecord": "llamatelemetry.bench.records",
    "RunRecord": "llamatelemetry.bench.records",
    "SweepResults": "llamatelemetry.bench.sweep",
    "load_prompts": "llamatelemetry.bench.prompts",
    "synthetic_prompts": "llamatelemetry.bench.synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
