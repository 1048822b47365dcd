"""The targets of `scripts/fuzz.py` with random mutations, and the inputs that have failed."""

from __future__ import annotations

from random import Random

import pytest

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
    "a number beyond a double in OTLP": (
        "otlp",
        b'{"resourceSpans": [{"resource": {"attributes": [{"value": {"doubleValue": 1'
        + b"0" * 400
        + b"}}]}}]}",
    ),
    "deep brackets as an expression": ("configuration", b"[" * 100_000),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `re`, for odd expressions
@pytest.mark.parametrize("name", FAILURES)
def test_input_that_failed_once_passes(name: str) -> None:
    target, data = FAILURES[name]
    TARGETS[target].check(data)
