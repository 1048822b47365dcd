"""`llamatelemetry.summary()`: the calls of this process, printed and in a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Tracer

from llamatelemetry.local.call_history import CallHistory
from tests.support.example_records import EVIL


@pytest.fixture
def history() -> CallHistory:
    return CallHistory()


@pytest.fixture
def tracer(history: CallHistory) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(history)
    return provider.get_tracer("test")


def call(tracer: Tracer, model: str = "m", **more: object) -> None:
    usage = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3}
    named = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
    tracer.start_span("chat", kind=SpanKind.CLIENT, attributes={**named, **usage, **more}).end()


def test_summary_counts_calls_and_no_other_spans(history: CallHistory, tracer: Tracer) -> None:
    call(tracer)
    call(tracer, **{"gen_ai.ttft_ms": 12.5})
    call(tracer, "other")
    tracer.start_span("decode", attributes={"llamatelemetry.phase": "decode"}).end()
    tracer.start_span("tool", attributes={"gen_ai.operation.name": "execute_tool"}).end()
    summary = history.summary()
    assert (summary.calls, summary.errors) == (3, 0)
    lines = str(summary).splitlines()
    assert lines[0].split() == [
        *("Operation", "Model", "Calls", "Errors", "Input", "tokens", "Output", "tokens"),
        *("TTFT", "(ms)", "Duration", "(ms)"),
    ]
    assert lines[2].split()[:7] == ["chat", "m", "2", "0", "14", "6", "12"]
    assert summary.to_dict()["by_operation_and_model"][1]["model"] == "other"


def test_summary_in_a_notebook_is_a_table_without_markup_of_spans(
    history: CallHistory, tracer: Tracer
) -> None:
    assert history.summary()._repr_html_() == "No LLM calls recorded yet."
    call(tracer, EVIL)
    shown = history.summary()._repr_html_()
    assert shown.count("<tr>") == 2
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_history_keeps_no_content_and_only_the_newest_calls(
    history: CallHistory, tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(tracer, **{"gen_ai.input.messages": "a secret"})
    assert "a secret" not in repr(vars(history))
    for _ in range(2_300):
        call(tracer)
    assert history.summary().calls == 2_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_process_starts_without_the_calls_of_its_parent() -> None:
    program = """
        import os
        import llamatelemetry
        from opentelemetry import trace
        llamatelemetry.init(exporter="none")
        tracer = trace.get_tracer("t")
        tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat"}).end()
        pid = os.fork()
        if pid == 0:
            print(llamatelemetry.summary().calls, flush=True)
            os._exit(0)
        os.wait()
        print(llamatelemetry.summary().calls)
    """
    found = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program)], text=True)
    assert found.split() == ["0", "1"]


def test_summary_without_setup_says_what_to_do() -> None:
    program = (
        "import llamatelemetry\ntry: llamatelemetry.summary()\nexcept RuntimeError as e: print(e)"
    )
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert "call llamatelemetry.init() first" in found
