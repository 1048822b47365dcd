"""`llamatelemetry run` beside a real vLLM that exports its own spans: one trace, one row per call."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from llamatelemetry.local.call_phases import CallPhases, phases_of_call, usage_of
from llamatelemetry.local.calls import calls_from_spans
from llamatelemetry.local.joined_calls import JoinedCall, join_calls
from llamatelemetry.local.store import StoreReader
from tests.support.run_commands import RUN
from tests.support.vllm_server import MODEL, VllmServer, vllm_server

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(900)]

# Each call has a seed of its own, by which the test finds it again.
PROGRAM = f"""
import os, sys, time
import openai

while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
with open(sys.argv[1]) as file:
    client = openai.OpenAI(base_url=file.read(), api_key="none", max_retries=0)
chat = {{
    "model": "{MODEL}",
    "messages": [{{"role": "user", "content": "hello " * 20}}],
    "max_tokens": 8,
    "extra_body": {{"ignore_eos": True}},
}}
create = client.chat.completions.create
create(**chat, seed=1)
list(create(**chat, seed=2, stream=True, stream_options={{"include_usage": True}}))
list(create(**chat, seed=3, stream=True))
create(**chat, seed=4, n=2)
client.completions.create(model="{MODEL}", prompt=["hello", "good day"], max_tokens=8, seed=5)
aborted = create(**{{**chat, "max_tokens": 400}}, seed=6, stream=True)
next(iter(aborted))
aborted.close()
try:
    create(**{{**chat, "model": "unknown"}}, seed=7)
except openai.NotFoundError:
    pass
create(**chat, seed=8)
"""
PLAIN, USAGE, NO_USAGE, CHOICES, PROMPTS, ABORTED, FAILED, LAST = range(1, 9)


class Recorded(NamedTuple):
    """The calls of the program by seed, the call of another client, and the printed table."""

    calls: dict[int, JoinedCall]
    other: JoinedCall
    printed: str

    def phases(self, seed: int) -> CallPhases:
        return phases_of_call(self.calls[seed].attributes, self.calls[seed].requests)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask_without_instrumentation(server: VllmServer) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    request = urllib.request.Request(
        f"{server.url}/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()


def record(folder: Path, *flags: str, protocol: str = "http/protobuf") -> Recorded:
    is_grpc = protocol == "grpc"
    (folder / "program.py").write_text(PROGRAM)
    ready, port = folder / "ready", free_port()
    command = (sys.executable, "program.py", str(ready))
    # The receiver is there before vLLM, which would drop the spans that it cannot send.
    process = subprocess.Popen(
        [
            *(*RUN, "--grpc-port" if is_grpc else "--port", str(port)),
            *("--output", "run.db", "--no-report", "--", *command),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "150"},
    )
    try:
        url = f"http://127.0.0.1:{port}{'' if is_grpc else '/v1/traces'}"
        with vllm_server(*flags, traces_url=url, traces_protocol=protocol) as server:
            ask_without_instrumentation(server)
            (folder / "url").write_text(server.url)
            (folder / "url").rename(ready)
            # vLLM sends its spans every 5 seconds, so the last ones come after the program's end.
            printed = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, printed
    with StoreReader(folder / "run.db") as reader:
        spans = list(reader.spans())
    calls = join_calls(spans)
    (other,) = [call for call in calls if not call.is_recorded_by_client]
    by_seed = {call.attributes["gen_ai.request.seed"]: call for call in calls if call is not other}
    assert len(calls) == len(calls_from_spans(spans)) == len(by_seed) + 1
    return Recorded(by_seed, other, printed)


def check_joined(recorded: Recorded) -> None:
    """Check what does not depend on vLLM's flags."""
    sequences = {seed: len(call.requests) for seed, call in recorded.calls.items()}
    # A fast vLLM has generated many tokens, or all, before it notices that the client has gone.
    finished = sequences.pop(ABORTED)
    assert finished in {0, 1}
    assert sequences == {
        **dict.fromkeys((PLAIN, USAGE, NO_USAGE, LAST), 1),
        CHOICES: 2,
        PROMPTS: 2,
        FAILED: 0,
    }
    assert all(
        request.engine == "vllm" and request.span.trace_id == call.span.trace_id
        for call in recorded.calls.values()
        for request in call.requests
    )
    for seed in (PLAIN, USAGE, NO_USAGE, CHOICES, PROMPTS, LAST):
        phases = recorded.phases(seed)
        assert None not in (phases.queue_ms, phases.prefill_ms, phases.decode_ms, phases.tpot_ms)
    assert recorded.phases(FAILED).prefill_ms is None
    assert (recorded.phases(ABORTED).prefill_ms is None) is (not finished)
    assert recorded.other.requests[0].operation == "text_completion"
    rows = {tuple(line.split()[:2]): line.split() for line in recorded.printed.splitlines()}
    # Calls, errors and tokens. The prompt counts once for two choices.
    tokens = recorded.calls[PLAIN].attributes["gen_ai.usage.input_tokens"]
    generated = usage_of(recorded.calls[ABORTED].requests).output_tokens or 0
    assert generated <= 400
    expected = (6, 0, (5 + finished) * tokens, 48 + generated)
    assert rows["chat", MODEL][2:6] == [str(number) for number in expected]
    assert rows["chat", "unknown"][2:4] == ["1", "1"]
    assert rows["text_completion", MODEL][2:4] == ["1", "0"]


def test_table_shows_phases_of_spans_when_responses_have_none(tmp_path: Path) -> None:
    recorded = record(tmp_path)
    check_joined(recorded)
    for seed in (PLAIN, USAGE, NO_USAGE, CHOICES, PROMPTS, LAST):
        sources = recorded.phases(seed).sources
        assert {sources[name] for name in ("queue_ms", "prefill_ms", "decode_ms")} == {
            "engine_span"
        }


def test_phases_of_spans_agree_with_those_of_responses(tmp_path: Path) -> None:
    recorded = record(tmp_path, "--enable-per-request-metrics", protocol="grpc")
    check_joined(recorded)
    for seed in (PLAIN, USAGE, LAST):
        response, call = recorded.phases(seed), recorded.calls[seed]
        span = phases_of_call({}, call.requests)
        assert set(response.sources.values()) == {"client_span"}
        for name in ("queue_ms", "prefill_ms", "decode_ms", "tpot_ms"):
            assert getattr(span, name) == pytest.approx(getattr(response, name), abs=2)
