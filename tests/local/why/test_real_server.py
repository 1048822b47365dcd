"""Explain calls of the real openai client to a real llama.cpp server, recorded by `run`."""

from __future__ import annotations

import sys

import pytest

import llamatelemetry
from llamatelemetry.local.why import CallExplanation
from tests.support.llama_server import LlamaServer
from tests.support.run_commands import run

PROGRAM = """
import asyncio, sys
import openai

TEXT = "The river runs through the valley, under the old bridge and along the garden. " * 6


async def main():
    client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="none")
    messages = [{"role": "system", "content": "Answer briefly. " + TEXT}]

    async def turn(**more):
        messages.append({"role": "user", "content": f"Question {len(messages)}?"})
        stream = await client.chat.completions.create(
            model="m", messages=messages, stream=True, max_tokens=6, temperature=0, **more
        )
        text = ""
        async for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
        messages.append({"role": "assistant", "content": text})

    for _ in range(7):
        await turn()
    messages[0]["content"] = "Be kind. " + messages[0]["content"]
    await turn()
    await turn(extra_body={"cache_prompt": False})


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def calls(
    llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory
) -> list[CallExplanation]:
    folder = tmp_path_factory.mktemp("why")
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", llama_server.url]
    done = run("--output", "run.db", "--no-report", "--", *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return list(llamatelemetry.why(folder / "run.db").calls)


def causes(call: CallExplanation) -> list[str | None]:
    return [part.cause for part in call.parts if part.name == "prefill_again"]


@pytest.mark.needs("xllamacpp")
def test_parts_of_real_calls_add_up_and_are_mostly_explained(calls: list[CallExplanation]):
    assert len(calls) == 9
    for call in calls:
        assert sum(part.ms for part in call.parts) == pytest.approx(call.duration_ms, abs=0.01)
        names = {part.name for part in call.parts}
        assert {"client_before_send", "decode"} <= names
        assert names & {"prefill_new", "prefill_again"}


@pytest.mark.needs("xllamacpp")
def test_causes_of_real_repeated_prefills_are_found(calls: list[CallExplanation]):
    found = [causes(call) for call in calls]

    assert found[0] == ["first_call"]
    assert found[1:7] == [[]] * 6
    assert found[7] == ["section_changed"]
    assert found[8] == ["cache_not_used"]
    (again,) = [part for part in calls[7].parts if part.name == "prefill_again"]
    assert "messages[0] system changed" in again.evidence
