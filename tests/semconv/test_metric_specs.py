"""The histograms as the conventions (v1.41) give them, number by number."""

from __future__ import annotations

from llamatelemetry.semconv import metrics

DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (
    *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536),
    *(262144, 1048576, 4194304, 16777216, 67108864),
)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


def test_names_units_and_boundaries_are_those_of_the_conventions():
    found = {spec.name: (spec.unit, spec.boundaries) for spec in metrics.HISTOGRAMS}
    assert found == {
        "gen_ai.client.token.usage": ("{token}", TOKENS),
        "gen_ai.client.operation.duration": ("s", DURATION),
        "gen_ai.client.operation.time_to_first_chunk": ("s", DURATION),
        "gen_ai.client.operation.time_per_output_chunk": ("s", DURATION),
        "gen_ai.server.request.duration": ("s", DURATION),
        "gen_ai.server.time_to_first_token": ("s", FIRST_TOKEN),
        "gen_ai.server.time_per_output_token": ("s", PER_TOKEN),
    }
    assert len(found) == len(metrics.HISTOGRAMS)


def test_every_histogram_is_described_and_its_boundaries_ascend():
    for spec in metrics.HISTOGRAMS:
        assert spec.description.endswith(".")
        assert list(spec.boundaries) == sorted(set(spec.boundaries))
        assert all(isinstance(boundary, float) for boundary in spec.boundaries)
