"""Benchmark results with pseudo-random times, for the tests of export, comparison and reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llamatelemetry.bench import (
    BenchmarkResults,
    RequestRecord,
    RunRecord,
)

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & {{ 7*7 }}"


def record(index, *, slower=1.0, seed=0, **changes):
    pace = round(slower * float(np.exp(np.random.default_rng([seed, index]).normal(0, 0.1))), 4)
    made = RequestRecord(
        index=index,
        prompt=index,
        due_s=index * 0.5,
        lag_s=0.001,
        e2e_s=1.0 * pace,
        ttft_s=0.5 * pace,
        ttfo_s=0.5 * pace,
        token_times_s=(0.499 * pace, 0.7 * pace, 0.9 * pace),
        input_tokens=20,
        output_tokens=3,
        cached_tokens=0,
        finish_reason="length",
        queue_s=0.1 * pace,
        queue_source="header",
        prefill_s=0.3 * pace,
        decode_s=0.4 * pace,
        prefilled_tokens=20,
        decoded_tokens=3,
        trace_id="ab" * 16,
        span_id="cd" * 8,
    )
    return replace(made, **changes)


def results(*, n=60, slower=1.0, seed=0, **changes):
    made = BenchmarkResults(
        model="a model",
        settings={"load_text": "concurrency 1", "seed": 0},
        fingerprint={"server.build": "b1", "max_tokens": 8},
        environment={"python": "3"},
        requests=[record(index, slower=slower, seed=seed) for index in range(n)],
        runs=[RunRecord(started_unix_s=1.8e9, duration_s=30.0, planned=n)],
        slo={"ttft": 0.5},
        warnings=["something was odd"],
    )
    return replace(made, **changes)
