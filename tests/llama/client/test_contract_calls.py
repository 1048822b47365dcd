"""All documented calls in one program: from a GGUF file to traced calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.local.recording import read_spans
from tests.support.components import require
from tests.support.selection import slow_except

PROGRAM = Path(__file__).with_name("contract_program.py")
MODEL = "SmolLM2-135M-Instruct.Q4_1"


@pytest.mark.parametrize("server", slow_except({"embedded"}, ["embedded", "program"]))
def test_program_with_all_documented_calls_records_their_spans(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
):
    env = {**os.environ, "OTEL_PYTHON_DISTRO": "llamatelemetry"}
    if server == "program":
        env["LLAMA_SERVER_PATH"] = str(request.getfixturevalue("any_program"))
    else:
        require("xllamacpp")
        # A directory without llama-server.
        env["PATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, PROGRAM, find_demo_model(), tmp_path],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found.pop("text")
    assert found == {
        "healthy": True,
        "pid": True,
        "health": "ok",
        "model": MODEL,
        "slots": [2, 2],
        "tokens": "Hello",
        "template": True,
        "counted": [4, True],
        "streamed": 4,
        "created": 4,
        "generated": True,
        "completed": 4,
        "embedded": 2,
        "refused": [[501, "not_supported_error"]] * 2,
        "counters": True,
        "is_engine": True,
        "async": [4, 4],
        "engine": True,
        "own": True,
        "restarted": True,
        "logged": 5,
        "flushed": True,
        "shut_down": True,
    }
    spans = read_spans(tmp_path.glob("*.jsonl"))
    # OpenTelemetry's HTTP instrumentation, installed for other tests, adds child spans.
    spans = [span for span in spans if span.name not in {"GET", "POST"}]
    names = Counter(span.name for span in spans)
    phases = {name: names.pop(name) for name in ("queue", "prefill", "decode")}
    assert names == {
        "llama_server start": 2,
        "chat": 6,
        f"chat {MODEL}": 1,
        # 3 and the rejected infill
        "text_completion": 3 + 1,
        "text_completion loud": 1,
        "embeddings": 1,
        "retrieval": 1,
    }
    generations = 6 + 1 + 3 + 1
    assert set(phases.values()) == {generations}
    for span in spans:
        if span.kind == 3:
            assert span.attributes["llamatelemetry.server.model_file"] == f"{MODEL}.gguf"
            assert span.attributes["llamatelemetry.server.slots"] == 2
    assert [span.name for span in spans if span.failed] == ["retrieval", "text_completion"]
