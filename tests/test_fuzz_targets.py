"""The targets of `scripts/fuzz.py` with random mutations, and the inputs that have failed."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from tests.support import nvml
from tests.support.fuzz_targets import TARGETS
from tests.support.mutations import field_names, mutated

CASES = 60
each_target = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs("cc") if name == "nvml" else ())
        for name in TARGETS
    ],
)


@each_target
def test_true_and_valid_inputs_pass(name: str) -> None:
    target = TARGETS[name]
    for data in target.inputs():
        target.check(data)


@each_target
def test_mutated_inputs_pass(name: str) -> None:
    target, random = TARGETS[name], Random(7)
    inputs = target.inputs()
    names = field_names(inputs)
    for _ in range(CASES):
        data = mutated(random.choice(inputs), random, names, keep_types=target.keep_types)
        target.check(data)


# Inputs that once raised something else than what the functions document.
FAILURES = {
    "a number of 5000 digits in OTLP": (
        "otlp",
        b'{"resourceSpans": [{"x": ' + b"9" * 5000 + b"}]}",
    ),
    "half of a surrogate pair as a name in OTLP": (
        "otlp",
        b'{"resourceMetrics": [["half \\ud800"]]}',
    ),
    "deep brackets as an expression": ("configuration", b"[" * 100_000),
}


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    "machine",
    [nvml.one_gpu(compute_capability={"major": 9, "minor": -1}), {**nvml.one_gpu(), "cuda": -1}],
    ids=["compute capability", "CUDA version"],
)
def test_negative_number_of_driver_is_unknown(machine: dict[str, Any]) -> None:
    TARGETS["nvml"].check(json.dumps(machine).encode())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `re`, for odd expressions
@pytest.mark.parametrize("name", FAILURES)
def test_input_that_failed_once_passes(name: str) -> None:
    target, data = FAILURES[name]
    TARGETS[target].check(data)
