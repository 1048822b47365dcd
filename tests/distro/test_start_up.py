"""What a program loads that is started with `opentelemetry-instrument` and calls no model."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from llamatelemetry import genai

INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")
PROGRAM = "import sys{}; print(*sorted(n for n in sys.modules if n.startswith('llamatelemetry')))"
SPAN = """
from opentelemetry import trace
span = trace.get_tracer("shop").start_span("order")
span.set_attribute("url.full", "https://host/?api_key=abc123")
span.end()
"""
LATE_SPAN = """
import builtins
from opentelemetry import trace
class Late:
    span = trace.get_tracer("shop").start_span("order", attributes={"number": 1})
    def __del__(self):
        self.span.end()
        print("ended")
builtins.late = Late()
"""
REDACTION = "llamatelemetry.otel.redaction"


def output_of(program: str, **more: str) -> str:
    """Return what a program prints that is started without code changes."""
    others = [
        each.name
        for each in entry_points(group="opentelemetry_instrumentor")
        if not each.name.startswith("llamatelemetry_")
    ]
    variables = {
        **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(others),
        **more,
    }
    done = subprocess.run(
        [str(INSTRUMENT), sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def loaded_by(imports: str, **more: str) -> set[str]:
    """Return the modules of llamatelemetry that the program has loaded at its end."""
    return set(output_of(PROGRAM.format(imports), **more).split())


@pytest.mark.parametrize("library", ["httpx", "requests", "urllib3", "aiohttp", "openai"])
def test_code_that_records_calls_is_loaded_together_with_an_instrumented_library(library):
    recording = {"llamatelemetry.genai.call", "llamatelemetry.genai.metrics"}
    started = loaded_by("")
    assert "llamatelemetry.distro" in started
    assert started.isdisjoint(recording)
    assert recording <= loaded_by(f", {library}")


def has_nvml_library() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def test_program_does_not_load_code_of_unused_options():
    unused = {
        "llamatelemetry.otel.trace_graph.processor",
        "llamatelemetry.otel.sampling.rules",
        "llamatelemetry.otel.sampling.tail_sampler",
        "llamatelemetry.server_metrics",
    }
    if not has_nvml_library():
        unused |= {"llamatelemetry.gpu.monitor", "llamatelemetry.gpu.detector"}
        unused |= {"llamatelemetry.otel.process.leader_election"}
    loaded = loaded_by("")
    assert loaded & unused == set()
    assert {name for name in loaded if name.startswith(f"{REDACTION}.")} == {
        f"{REDACTION}.{name}" for name in ("fail_closed", "options", "secret_spans")
    }


def test_options_load_their_code_at_the_start():
    redaction = loaded_by("", LLAMATELEMETRY_REDACT_PATTERNS="email")
    assert {f"{REDACTION}.spans", f"{REDACTION}.logs"} <= redaction
    sampling = loaded_by("", LLAMATELEMETRY_SAMPLING="only_errors")
    assert "llamatelemetry.otel.sampling.tail_sampler" in sampling


def test_first_span_of_program_has_no_secrets():
    exported = output_of(SPAN, OTEL_TRACES_EXPORTER="console")
    assert "https://host/?api_key=[REDACTED]" in exported
    assert "abc123" not in exported


def test_first_span_may_end_after_the_interpreter_has_stopped_importing():
    assert output_of(LATE_SPAN) == "ended\n"


def test_every_public_name_of_genai_is_loaded_on_first_use():
    own = {"end_open_streams", "flush_pending", "internal_errors", "stop_finalizer"}
    assert {*genai._MODULES, *own} == {*genai.__all__}
    for name in genai._MODULES:
        assert getattr(genai, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Missing'"):
        genai.Missing  # noqa: B018
