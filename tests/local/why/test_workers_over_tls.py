"""Explain calls of four workers to a real llama.cpp server behind a proxy that speaks TLS.

The workers use threads, openai and requests, streamed and not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.local.recording import read_recorded
from llamatelemetry.local.why import CallExplanation, Explanation
from tests.support.llama_server import LlamaServer
from tests.support.run_commands import run

PROXY = Path(__file__).parents[3] / "scripts/_why_server.py"
WORKERS = 4
PROGRAM = """
import json, os, random, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import openai, requests

url, certificate = sys.argv[1:3]
name = os.getpid()
chance = random.Random(name)
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")


def text(words):
    return " ".join(str(chance.randrange(1000)) for _ in range(words))


def grown(messages, answer):
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "2?"}]


def ask(messages, *, stream, fault="", **body):
    reply = client.chat.completions.create(
        model="m", messages=messages, stream=stream, max_tokens=3,
        extra_headers={"x-fault": fault}, extra_body=body,
    )
    if not stream:
        return reply.id, reply.choices[0].message.content
    chunks = list(reply)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return chunks[0].id, "".join(parts)


def post(messages, *, stream):
    body = {"model": "m", "messages": messages, "max_tokens": 3, "stream": stream}
    path = f"{url}/v1/chat/completions"
    with requests.post(path, json=body, verify=certificate, stream=stream) as reply:
        if not stream:
            return reply.json()["id"], ""
        lines = [line for line in reply.iter_lines() if line.startswith(b"data: {")]
    return json.loads(lines[0][6:])["id"], ""


def start():
    return [{"role": "system", "content": text(20)}, {"role": "user", "content": "1?"}]


def work():
    found = {}
    messages = start()
    found["first"], answer = ask(messages, stream=True)
    messages = grown(messages, answer)
    found["cache_off"], answer = ask(messages, stream=False, cache_prompt=False)
    messages = grown(messages, answer)
    found["retry"], answer = ask(messages, stream=True, fault=f"fail={name}")
    messages = grown(messages, answer)
    found["post"], _ = post(messages, stream=False)
    found["post_stream"], _ = post(messages, stream=True)
    with ThreadPoolExecutor(2) as pool:
        threads = pool.map(lambda prompt: ask(prompt, stream=True), [start(), start()])
        found |= {f"thread{n}": each for n, (each, _) in enumerate(threads)}
    with open(f"truth-{name}.json", "w") as file:
        json.dump(found, file)


if sys.argv[3:]:
    work()
else:
    command = [sys.executable, *sys.argv, "work"]
    for worker in [subprocess.Popen(command) for _ in range(4)]:
        assert worker.wait() == 0
"""


@contextmanager
def tls_proxy(upstream: str, folder: Path) -> Iterator[str]:
    """Run the proxy in a process of its own and yield its origin."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command, *names, "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    options = ["--upstream", upstream.rpartition(":")[2]]
    options += ["--certificate", "cert.pem", "--key", "key.pem"]
    with subprocess.Popen(
        [sys.executable, str(PROXY), *options], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"https://localhost:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(scope="module")
def folder(llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "program.py").write_text(PROGRAM)
    with tls_proxy(llama_server.origin, folder) as origin:
        done = run(
            *("--output", "run.db", "--no-report", "--", sys.executable, "program.py"),
            *(origin, "cert.pem"),
            cwd=folder,
            SSL_CERT_FILE=str(folder / "cert.pem"),
        )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def explanation(folder: Path) -> Explanation:
    return llamatelemetry.why(folder / "run.db")


@pytest.fixture(scope="module")
def calls(folder: Path, explanation: Explanation) -> dict[str, list[CallExplanation]]:
    """Return the calls of all workers by what the program did."""
    spans = read_recorded(folder / "run.db").spans
    ids = {span.attributes.get("gen_ai.response.id"): span.span_id for span in spans}
    truths = [json.loads(path.read_text()) for path in folder.glob("truth-*.json")]
    assert len(truths) == WORKERS
    return {
        kind: [each for truth in truths if (each := explanation.of(ids[truth[kind]]))]
        for kind in truths[0]
    }


pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("xllamacpp"),
    pytest.mark.needs("openssl"),
]


def test_parts_of_all_calls_add_up(
    explanation: Explanation, calls: dict[str, list[CallExplanation]]
):
    assert len(explanation.calls) == 7 * WORKERS
    assert {kind: len(group) for kind, group in calls.items()} == dict.fromkeys(calls, WORKERS)
    for call in explanation.calls:
        assert sum(part.ms for part in call.parts) == pytest.approx(call.duration_ms, abs=0.01)


def test_causes_of_each_worker_are_found(calls: dict[str, list[CallExplanation]]):
    def causes(kind: str) -> set[str | None]:
        parts = (part for call in calls[kind] for part in call.parts)
        return {part.cause for part in parts if part.name == "prefill_again"}

    assert causes("first") == causes("thread0") == causes("thread1") == {"first_call"}
    assert causes("cache_off") == {"cache_not_used"}
    for call in calls["retry"]:
        (retry,) = [part for part in call.parts if part.name == "retry"]
        assert retry.evidence.startswith("1 failed attempt (503 after")


def test_no_call_is_blamed_on_the_process_of_the_proxy(explanation: Explanation):
    blamed = {"server_stopped", "server_cpu_wait", "network_before", "model_load", "throttled"}
    assert not blamed & {call.top_cause for call in explanation.calls}
    assert not any(
        part.evidence for c in explanation.calls for part in c.parts if part.name in blamed
    )
    assert any("it is a proxy" in note for note in explanation.notes)
