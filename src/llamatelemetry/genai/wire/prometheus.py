"""Parser of the Prometheus text format that llama.cpp servers expose at `/metrics`."""

from __future__ import annotations


def parse_metrics(text: str) -> dict[str, float]:
    """Return the samples by name, without the prefix `llamacpp:`, and with their labels.

    Invalid lines are ignored.
    """
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        labeled, brace, values = line.rpartition("}")
        name, values = (labeled + brace, values) if brace else (*line.split(" ", 1), "")[:2]
        try:
            # A timestamp may follow the value.
            samples[name.removeprefix("llamacpp:")] = float(values.split()[0])
        except (ValueError, IndexError):
            continue
    return samples
