"""Benchmark an inference server or engine: generate load, measure requests, compare and report.

numpy, SciPy, pandas, Jinja2 and Rich are optional and imported only where they are used.
"""

from llamatelemetry.bench.analysis.comparison import (
    Comparison,
    FingerprintMismatchError,
    MetricComparison,
)
from llamatelemetry.bench.load.prompts import Conversation, load_prompts, synthetic_prompts
from llamatelemetry.bench.load.schedule import BenchmarkProfile, Ramp
from llamatelemetry.bench.load.session import BenchmarkError
from llamatelemetry.bench.records import RequestRecord, RunRecord
from llamatelemetry.bench.results import BenchmarkResults
from llamatelemetry.bench.runner import BenchmarkRunner
from llamatelemetry.bench.sweep import SweepResults

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
