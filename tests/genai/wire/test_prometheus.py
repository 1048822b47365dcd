"""Parsing of the Prometheus text format."""

from __future__ import annotations

from llamatelemetry.genai.wire.prometheus import parse_metrics


def test_parse_metrics_keeps_labels_and_ignores_comments_and_invalid_lines():
    text = """# HELP llamacpp:n_decode_total Total number
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 22
llamacpp:ratio 1.5e-05 1700000000
other{position="1 2",x="}"} 7
broken
llamacpp:not_a_number x

llamacpp:last 1
"""
    assert parse_metrics(text) == {
        "n_decode_total": 22,
        "ratio": 1.5e-05,
        'other{position="1 2",x="}"}': 7,
        "last": 1,
    }
