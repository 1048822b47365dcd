"""`llamatelemetry why` for calls to a real vLLM: what its replies reveal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm_server import MODEL, VllmServer

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(600)]

SLOTS = 4  # of the server
PROGRAM = """
import asyncio, sys
import openai

async def main(url, model):
    client = openai.AsyncOpenAI(base_url=url, api_key="none")

    async def call(text, system="You help."):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        await client.chat.completions.create(model=model, messages=messages, max_tokens=16)

    for number in range(8):
        await call("The same words. " * 20 + str(number))
    await asyncio.gather(*(call(f"At once {number}. " * 10) for number in range(16)))

asyncio.run(main(*sys.argv[1:]))
"""


def why(tmp_path: Path, server: VllmServer) -> dict[str, Any]:
    recorded, llamatelemetry = tmp_path / "run.db", [sys.executable, "-m", "llamatelemetry.cli"]
    command = [*llamatelemetry, "run", "--no-report", "--output", recorded, "--"]
    command += [sys.executable, "-c", PROGRAM, server.url, MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    explained = subprocess.run(
        [*llamatelemetry, "why", recorded, "--json"], capture_output=True, text=True, timeout=100
    )
    assert explained.returncode == 0, explained.stderr
    return json.loads(explained.stdout)


def test_queue_and_work_of_vllm_are_parts_that_add_up(tmp_path: Path, server: VllmServer) -> None:
    found = why(tmp_path, server)
    calls = found["calls"]
    assert len(calls) == 8 + 16
    for each in calls:
        parts = {part["name"]: part["ms"] for part in each["parts"]}
        assert sum(parts.values()) == pytest.approx(each["duration_ms"], abs=0.01)
        assert parts["decode"] > 0
        assert each["unexplained_ms"] <= each["duration_ms"]
    # 16 calls at once do not fit into the slots. vLLM says how long each of the others waited.
    waited = [
        each
        for each in calls
        if any(part["name"].startswith("queue") and part["ms"] > 1 for part in each["parts"])
    ]
    assert len(waited) >= 16 - 2 * SLOTS
    (rates,) = found["servers"]
    assert rates["calls"] == len(calls)
    assert rates["decode_ms_per_token"] > 0
