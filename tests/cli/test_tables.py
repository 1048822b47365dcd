"""Tables of the demo as they look on terminals of several widths."""

# ruff: noqa: RUF001, E501 - copies of terminal screens

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from llamatelemetry.cli._tables import print_calls, print_metrics
from llamatelemetry.local.calls import RecordedCall
from llamatelemetry.local.recording import MetricTotal
from tests.support.recorded_calls import recorded_chat

PLAIN = RecordedCall(
    operation="chat",
    model="SmolLM2-135M-Instruct.Q4_1",
    streamed=False,
    input_tokens=37,
    cached_tokens=0,
    output_tokens=32,
    queue_ms=0.34,
    prefill_ms=250.3,
    ttft_ms=250.64,
    tpot_ms=10.92,
    duration_ms=589.4,
    error=None,
    http_status=None,
)
STREAMED = dataclasses.replace(
    PLAIN, operation="text_completion", streamed=True, queue_ms=1570.2, duration_ms=10640.0
)
FAILED = recorded_chat(
    model="SmolLM2-135M-Instruct.Q4_1",
    duration_ms=4.04,
    error="invalid_request_error",
    http_status=400,
)

AT_80 = """\
Calls
                     In Cached Out Queue Prefill TTFT TPOT Duration   Out
# Operation         tok    tok tok  (ms)    (ms) (ms) (ms)     (ms) tok/s
─────────────────────────────────────────────────────────────────────────
1 chat               37      0  32   0.3     250  251   11      589    92
2 text_completion »  37      0  32  1570     250  251   11    10640    92
3 chat                –      –   –     –       –    –    –      4.0     –
» streaming   – unknown
Model: SmolLM2-135M-Instruct.Q4_1
Call 3 failed: invalid_request_error (400)
"""
AT_140 = """\
Calls
                                                Input Cached Output Queue Prefill TTFT TPOT Duration   Output
# Operation         Model                      tokens tokens tokens  (ms)    (ms) (ms) (ms)     (ms) tokens/s Error
─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
1 chat              SmolLM2-135M-Instruct.Q4_1     37      0     32   0.3     250  251   11      589       92
2 text_completion » SmolLM2-135M-Instruct.Q4_1     37      0     32  1570     250  251   11    10640       92
3 chat              SmolLM2-135M-Instruct.Q4_1      –      –      –     –       –    –    –      4.0        – invalid_request_error (400)
» streaming   – unknown
"""


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().strip("\n").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def console_of(width: int) -> Console:
    return Console(file=io.StringIO(), width=width)


@pytest.mark.parametrize(("width", "expected"), [(80, AT_80), (140, AT_140)])
def test_print_calls_fits_the_terminal(width: int, expected: str):
    console = console_of(width)
    print_calls(console, [PLAIN, STREAMED, FAILED])
    assert printed(console) == expected


@pytest.mark.parametrize("width", range(80, 200, 7))
def test_print_calls_truncates_nothing_at_any_width(width: int):
    console = console_of(width)
    print_calls(console, [PLAIN, STREAMED, FAILED] * 4)
    text = printed(console)
    assert "…" not in text
    assert "invalid_request_error (400)" in text
    assert PLAIN.model in text
    assert max(map(len, text.splitlines())) <= width


def test_print_calls_shows_one_decimal_below_ten():
    console = console_of(80)
    print_calls(console, [dataclasses.replace(PLAIN, tpot_ms=9.94, duration_ms=9.96, queue_ms=0.0)])
    row = printed(console).splitlines()[4].split()
    assert row == ["1", "chat", "37", "0", "32", "0.0", "250", "251", "9.9", "10", "101"]


def test_print_calls_does_not_interpret_markup_from_a_server():
    console = console_of(140)
    print_calls(console, [dataclasses.replace(FAILED, model="[red]m[/red]", error="[/oops]")])
    assert "[red]m[/red]" in printed(console)
    assert "[/oops] (400)" in printed(console)


def test_print_calls_shows_status_once_when_it_is_the_error_type():
    console = console_of(80)
    print_calls(console, [dataclasses.replace(FAILED, error="503", http_status=503)])
    assert printed(console).splitlines()[4].split()[-3:] == ["4.0", "–", "503"]


def test_print_metrics_sums_over_models_and_separates_token_types():
    usage = "gen_ai.client.token.usage"
    totals = [
        MetricTotal(usage, "{token}", {"gen_ai.token.type": "output", "m": 1}, 4, 100),
        MetricTotal(usage, "{token}", {"gen_ai.token.type": "output", "m": 2}, 4, 113),
        MetricTotal(usage, "{token}", {"gen_ai.token.type": "input"}, 8, 304),
        MetricTotal("gen_ai.client.operation.duration", "s", {}, 10, 4.3),
        MetricTotal("gen_ai.client.operation.time_per_output_chunk", "s", {}, 200, 2.3),
        MetricTotal("calls", "", {}, None, 12),
    ]
    console = console_of(80)
    print_metrics(console, totals)
    assert (
        printed(console)
        == """\
Metrics
Metric                                         Count         Mean       Total
─────────────────────────────────────────────────────────────────────────────
calls                                              –            –          12
gen_ai.client.operation.duration                  10     430.0 ms
gen_ai.client.operation.time_per_output_chunk    200      11.5 ms
gen_ai.client.token.usage, input                   8    38 tokens  304 tokens
gen_ai.client.token.usage, output                  8  26.6 tokens  213 tokens
"""
    )
