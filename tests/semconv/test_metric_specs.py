"""Metric specifications, compared with the conventions."""

from __future__ import annotations

import pytest

from llamatelemetry.semconv import metrics
from tests.support.bucket_boundaries import DURATION, TOKENS

FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


SPECS = [
    each
    for each in vars(metrics).values()
    if isinstance(each, (metrics.HistogramSpec, metrics.CounterSpec))
]


def units_and_boundaries(*prefixes):
    """Return unit and boundaries of all specifications whose names have one of the prefixes."""
    return {
        spec.name: (spec.unit, getattr(spec, "boundaries", "counter"))
        for spec in SPECS
        if spec.name.startswith(prefixes)
    }


def test_v1_41_metrics_match_conventions():
    assert units_and_boundaries("gen_ai.client.token.", "gen_ai.client.operation.") == {
        "gen_ai.client.token.usage": ("{token}", TOKENS),
        "gen_ai.client.operation.duration": ("s", DURATION),
        "gen_ai.client.operation.time_to_first_chunk": ("s", DURATION),
        "gen_ai.client.operation.time_per_output_chunk": ("s", DURATION),
    }


def test_latest_metrics_match_conventions():
    assert units_and_boundaries("gen_ai.client.inference.", "gen_ai.client.embeddings.") == {
        "gen_ai.client.inference.duration": ("s", DURATION),
        "gen_ai.client.inference.time_to_first_chunk": ("s", DURATION),
        "gen_ai.client.inference.time_per_output_chunk": ("s", DURATION),
        "gen_ai.client.inference.operation.input_tokens": ("{token}", TOKENS),
        "gen_ai.client.inference.operation.output_tokens": ("{token}", TOKENS),
        "gen_ai.client.inference.usage.input_tokens": ("{token}", "counter"),
        "gen_ai.client.inference.usage.output_tokens": ("{token}", "counter"),
        "gen_ai.client.inference.usage.cache_read.input_tokens": ("{token}", "counter"),
        "gen_ai.client.inference.usage.cache_write.input_tokens": ("{token}", "counter"),
        "gen_ai.client.inference.usage.reasoning.output_tokens": ("{token}", "counter"),
        "gen_ai.client.embeddings.duration": ("s", DURATION),
        "gen_ai.client.embeddings.operation.input_tokens": ("{token}", TOKENS),
    }


def test_server_metrics_match_conventions():
    assert units_and_boundaries("gen_ai.server.") == {
        "gen_ai.server.request.duration": ("s", DURATION),
        "gen_ai.server.time_to_first_token": ("s", FIRST_TOKEN),
        "gen_ai.server.time_per_output_token": ("s", PER_TOKEN),
    }


def test_names_of_instruments_are_unique():
    assert len({spec.name for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
def test_instrument_is_described_and_has_ascending_boundaries(spec):
    assert spec.description.endswith(".")
    boundaries = getattr(spec, "boundaries", ())
    assert list(boundaries) == sorted(set(boundaries))
    assert all(isinstance(boundary, float) for boundary in boundaries)
