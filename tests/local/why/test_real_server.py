"""Explain calls of the real openai client to a real llama.cpp server, recorded by `run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.local.why import CallExplanation
from tests.support.llama_server import LlamaServer
from tests.support.probes import llama_server_program
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

STARTING = """
import socket, threading
from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = free.getsockname()

def ask():
    # The client exists before the server listens. It takes longer to create than a model to load.
    with LlamaCppClient(f"http://127.0.0.1:{address[1]}", load_wait_s=90) as client:
        while socket.socket().connect_ex(address):
            pass
        client.chat([{"role": "user", "content": "Hi"}], max_tokens=2)

asking = threading.Thread(target=ask)
asking.start()
with ServerManager(ServerConfig(find_demo_model(), port=address[1], threads=1)):
    asking.join()
"""
# Preloaded, this delays the start of the process that a router starts for a model. Otherwise this
# model is loaded before new processes are looked for, which happens about once a second.
SLOW_CHILD = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void wait_in_child(void) {
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)getppid());
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fgets(name, sizeof name, file) != NULL && strncmp(name, "llama-server", 12) == 0)
            sleep(3);
        fclose(file);
    }
}
"""
ROUTER = """
import os, sys
from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager

config = ServerConfig("models", port=0, threads=1, n_ctx=512, n_gpu_layers=0)
os.environ["LD_PRELOAD"] = sys.argv[2]
with ServerManager(config, binary=sys.argv[1]) as manager, LlamaCppClient(manager.url) as client:
    for _ in range(2):
        client.chat(
            [{"role": "user", "content": "Hi"}], max_tokens=2, model=client.models()["data"][0]["id"]
        )
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


def parts_named(call: CallExplanation, name: str) -> list[str]:
    return [part.evidence for part in call.parts if part.name == name]


@pytest.mark.needs("xllamacpp")
def test_call_that_waits_for_a_starting_server_waits_for_its_model(tmp_path: Path):
    done = run(
        "--output", "run.db", "--no-report", "--", sys.executable, "-c", STARTING, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr

    (call,) = llamatelemetry.why(tmp_path / "run.db").calls

    (evidence,) = parts_named(call, "model_load")
    assert evidence.startswith("the server was starting for")


@pytest.mark.slow
@pytest.mark.needs("llama-server", "cc")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
def test_first_call_of_a_model_waits_until_the_router_has_loaded_it(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / find_demo_model().name).symlink_to(find_demo_model())
    (tmp_path / "slow.c").write_text(SLOW_CHILD)
    slow = tmp_path / "slow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", slow, tmp_path / "slow.c"], check=True)
    command = [sys.executable, "-c", ROUTER, str(llama_server_program()), str(slow)]
    done = run("--output", "run.db", "--no-report", "--", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    first, second = llamatelemetry.why(tmp_path / "run.db").calls

    (evidence,) = parts_named(first, "model_load")
    assert evidence.startswith("a process of the server started")
    assert not parts_named(second, "model_load")
