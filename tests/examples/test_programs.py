"""The programs of `examples/`, each run as its docstring says, with a real server or model."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.children import with_signals
from tests.support.components import require
from tests.support.example_runs import (
    DISTRO,
    EXAMPLES,
    README,
    documented_paths,
    read_run,
    run_example,
    section_of,
    settings,
)
from tests.support.llama_server import MODEL_ALIAS, LlamaServer
from tests.support.ports import free_port
from tests.support.run_commands import RUN
from tests.support.saved_models import folder  # noqa: F401 - a fixture
from tests.support.waiting import wait_for

CHAT = f"chat {MODEL_ALIAS}"
PROGRAMS = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.py"))
PROGRAMS = [path for path in PROGRAMS if path.parts[0] != "plugin"]
LONGER = {Path("openai_chat.py")}  # `llamatelemetry demo` runs it and shows every kind of call.
# docs/instrument/engines.md shows its command and its output.
OTHER_PAGES = {Path("any_engine.py")}


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_program_is_short_and_says_how_to_start_it(path: Path) -> None:
    source = (EXAMPLES / path).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80 or path in LONGER
    docstring = ast.get_docstring(ast.parse(source)) or ""
    assert path.name in docstring or path.stem in docstring or path in LONGER


def test_readme_lists_every_example() -> None:
    text = README.read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir()} - {README.name, "__pycache__"}
    assert [name for name in sorted(names) if f"({name}" not in text] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_readme_starts_program_as_its_docstring_does(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / path).read_text(encoding="utf-8"))) or ""
    command = re.compile(r"^ *(llamatelemetry run -- .*)$", re.MULTILINE)
    assert (
        command.findall(docstring) == command.findall(section_of(str(path))) or path in OTHER_PAGES
    )


def test_rag_records_steps_with_calls_below_them(llama_server: LlamaServer, tmp_path: Path) -> None:
    run = run_example("rag.py", cwd=tmp_path, **settings(llama_server))
    assert run.stdout.count("found: ") == 2
    assert "answer: " in run.stdout
    assert set(run.paths()) == documented_paths("rag.py")
    assert set(run.paths().values()) == {1}
    by_name = {span.name: span.attributes for span in run.spans}
    assert by_name["invoke_workflow rag"]["top_k"] == 2
    assert by_name[f"embeddings {MODEL_ALIAS}"]["gen_ai.usage.input_tokens"] > 50
    assert 0 < by_name[CHAT]["gen_ai.usage.output_tokens"] <= 48
    assert {each["gen_ai.conversation.id"] for each in by_name.values()} == {"example-rag"}


def test_agent_records_each_choice_and_each_tool(llama_server: LlamaServer, tmp_path: Path) -> None:
    run = run_example("agent.py", cwd=tmp_path, **settings(llama_server))
    paths = run.paths()
    assert set(paths) == documented_paths("agent.py")
    agent = ("invoke_workflow main", "invoke_agent astronomer")
    tools, calls = paths[*agent, "execute_tool count_moons"], paths[*agent, CHAT]
    assert tools == run.stdout.count("facts: ")
    # One choice per tool, the choice to finish unless the steps were used up, and the answer.
    assert (tools, calls) in {(1, 3), (2, 4), (3, 4)}
    assert run.total("gen_ai.invoke_agent.inference_calls") == calls
    assert run.total("gen_ai.invoke_agent.tool_calls") == tools
    assert all(call["gen_ai.usage.output_tokens"] > 0 for call in run.calls())


@pytest.mark.slow
def test_langchain_calls_are_below_their_workflow_also_in_threads(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    require("langchain_openai")
    run = run_example("langchain_chain.py", cwd=tmp_path, **settings(llama_server))
    assert [line.split()[0] for line in run.stdout.splitlines()[:4]] == [
        *("invoke", "stream", "batch", "batch")
    ]
    assert set(run.paths()) == documented_paths("langchain_chain.py")
    assert run.paths()["invoke_workflow batch", CHAT] == 2
    assert [call.get("gen_ai.request.stream", False) for call in run.calls()[:2]] == [False, True]
    for call in run.calls():
        assert 0 < call["gen_ai.usage.output_tokens"] <= 24
        assert call["gen_ai.prefill_ms"] > 0


def test_router_tries_the_next_server_in_the_same_trace(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    port = free_port()  # Nothing listens there.
    urls = (llama_server.url, f"http://127.0.0.1:{port}/v1")
    run = run_example("router.py", MODEL_ALIAS, *urls, cwd=tmp_path)
    assert run.stdout.count("APIConnectionError, trying the next server") == 2
    assert run.stdout.count(f"{llama_server.url}: ") == 4
    assert set(run.paths()) == documented_paths("router.py")
    assert run.paths() == {("invoke_workflow route",): 4, ("invoke_workflow route", CHAT): 6}
    failed = [call for call in run.calls() if "error.type" in call]
    assert [call["server.port"] for call in failed] == [port, port]
    answered = [call for call in run.calls() if "error.type" not in call]
    assert {call["server.port"] for call in answered} == {httpx2.URL(llama_server.url).port}


@pytest.mark.slow
@pytest.mark.needs("transformers")
def test_transformers_batch_is_one_span_with_the_tokens_of_each_text(
    folder: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    run = run_example("transformers_batch.py", str(folder), cwd=tmp_path)
    assert [line.split()[0] for line in run.stdout.splitlines()[:8]] == list("12345678")
    [[name]] = documented_paths("transformers_batch.py")
    assert [span.name for span in run.spans] == [name.replace(MODEL_ALIAS, folder.name)] * 2
    for span in run.spans:
        assert span.attributes["llamatelemetry.batch.size"] == 4
        assert len(span.attributes["llamatelemetry.batch.input_tokens"]) == 4
        tokens = span.attributes["llamatelemetry.batch.output_tokens"]
        assert sum(tokens) == span.attributes["gen_ai.usage.output_tokens"] > 0
        assert span.attributes["gen_ai.decode_ms"] > 0


@contextmanager
def service(cwd: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run the FastAPI service under `llamatelemetry run`, and stop it as with Ctrl-C."""
    port = free_port()
    app = ["--app-dir", str(EXAMPLES), "fastapi_service:app", "--port", str(port)]
    uvicorn = [sys.executable, "-m", "uvicorn", *app, "--log-level", "warning"]
    process = subprocess.Popen(
        with_signals([*RUN, "--output", "run.db", "--", *uvicorn]),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def listens() -> bool:
        assert process.poll() is None, process.communicate()[0]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, timeout_s=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_service_records_a_streamed_answer_below_its_workflow(
    llama_server: LlamaServer, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi: pip install --group examples")
    environment = os.environ | DISTRO | settings(llama_server)
    body = {"text": "Why do stars twinkle?"}
    conversation = {"x-conversation-id": "thread-42"}
    with (
        service(tmp_path, environment) as url,
        httpx2.Client(timeout=60, trust_env=False) as client,
        client.stream("POST", f"{url}/chat", json=body, headers=conversation) as response,
    ):
        pieces = list(response.iter_text())
        assert response.status_code == 200
    run = read_run(tmp_path / "run.db")
    assert "".join(pieces).strip()
    assert len(pieces) > 1
    assert run.paths() == dict.fromkeys(documented_paths("fastapi_service.py"), 1)
    [call] = run.calls()
    assert 0 < call["gen_ai.usage.output_tokens"] <= 32
    assert {span.attributes["gen_ai.conversation.id"] for span in run.spans} == {"thread-42"}
    answer = next(span for span in run.spans if span.name == "invoke_workflow answer")
    assert answer.duration_ms == max(span.duration_ms for span in run.spans)
