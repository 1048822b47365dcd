"""The names of llama.cpp's functions in the supported versions of llama-cpp-python.

The library has no wheels and takes minutes to build. These substitutes have the names and
arguments of its source code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LLAMA = """
from types import SimpleNamespace

END = 2

class Llama:
    model_path = "/models/tiny.gguf"

    def __init__(self):
        self.counters = SimpleNamespace(t_p_eval_ms=0.0, t_eval_ms=0.0, n_p_eval=0, n_eval=1)
        self._ctx = SimpleNamespace(ctx=self.counters)
        self._model = SimpleNamespace(model="model", vocab="vocabulary")

    def n_ctx(self):
        return 64

    def generate(self, tokens, **_):
        self.counters.n_p_eval += len(tokens)
        self.counters.t_p_eval_ms += 8.0
        yield 5
        for steps, token in enumerate((6, END)):
            self.counters.n_eval += steps  # never below 1
            self.counters.t_eval_ms += 2.0
            yield token

    def create_completion(self, prompt, stream):
        for token in self.generate([7, 8, 9]):
            text, reason = ("", "stop") if token == END else ("a", None)
            yield {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
            if reason:
                break

    def create_chat_completion(self, messages): ...

    def create_embedding(self, input, model=None): ...


def counters_of(context):
    return SimpleNamespace(**vars(context))


def is_end(owner):
    def is_end(given, token):
        assert given == owner
        return token == END

    return is_end
"""
# From version 0.3.7 on, `llama_token_is_eog` takes the vocabulary and is deprecated.
NAMES = {
    "0.2.80": ("llama_get_timings = counters_of", "llama_token_is_eog = is_end('model')"),
    "0.3.2": ("llama_perf_context = counters_of", "llama_token_is_eog = is_end('model')"),
    "0.3.36": ("llama_perf_context = counters_of", "llama_vocab_is_eog = is_end('vocabulary')"),
}
PROGRAM = """
import json
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llamatelemetry.genai import flush_pending
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
LlamaCppInstrumentor().instrument(tracer_provider=provider)
import llama_cpp

llama = llama_cpp.Llama()
assert len(list(llama.create_completion("abc", stream=True))) == 3
flush_pending(5)
(span,) = [s for s in exporter.get_finished_spans() if "llamatelemetry.phase" not in s.attributes]
print(json.dumps(dict(span.attributes)))
"""


@pytest.mark.parametrize("version", NAMES)
def test_stream_has_token_counts_and_timings_with_each_binding_version(
    tmp_path: Path, version: str
) -> None:
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "llama.py").write_text(LLAMA)
    names = "\n".join(NAMES[version])
    (package / "__init__.py").write_text(
        f"from llama_cpp.llama import Llama, counters_of, is_end\n{names}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    attributes = json.loads(done.stdout)
    # The end-of-generation token is not counted as output.
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["gen_ai.usage.input_tokens"] == 3
    assert attributes["llamatelemetry.prompt_tokens"] == 3
    assert attributes["llamatelemetry.cached_tokens"] == 0
    assert attributes["gen_ai.prefill_ms"] == 8.0
    assert attributes["gen_ai.decode_ms"] == 4.0
