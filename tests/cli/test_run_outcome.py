"""`llamatelemetry run`: what is recorded of processes that end badly, and what its end says."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from llamatelemetry.local.report import read_recorded
from llamatelemetry.local.store import StoreReader
from tests.support.llama_server import LlamaServer
from tests.support.run_commands import SPAN, run

PYTHON = sys.executable
PREPARED = "import os, signal, sys, time\nfrom opentelemetry import trace\n"
FORK = """
if os.fork() == 0:
    trace.get_tracer("t").start_span("child").end()
    time.sleep(0.6)
    os._exit(0)
os.wait()
os._exit(0)
"""
ONE_CALL = """
import openai, sys
openai.OpenAI().chat.completions.create(
    model="m", messages=[{"role": "user", "content": "Say hi."}], max_tokens=int(sys.argv[1])
)
"""


def names(path: Path) -> list[str]:
    return [span.name for span in read_recorded(path).spans]


@pytest.mark.parametrize(
    "end",
    [
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        FORK,
    ],
    ids=["os._exit", "SIGKILL", "SIGTERM", "forked child"],
)
def test_spans_that_ended_a_moment_before_the_process_are_recorded(
    tmp_path: Path, end: str
) -> None:
    # The default delay of the SDK is 5 s.
    program = f"{PREPARED}{SPAN}time.sleep(0.6)\n{end}\n"
    run("--output", "run.db", "--", PYTHON, "-c", program, cwd=tmp_path)
    assert sorted(names(tmp_path / "run.db")) == [
        "by the program",
        *(["child"] if "fork" in end else []),
    ]


def test_killed_command_and_open_parent_are_named(tmp_path: Path) -> None:
    program = """
        with trace.get_tracer("t").start_as_current_span("open"):
            trace.get_tracer("t").start_span("ended").end()
            time.sleep(0.6)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run("--", PYTHON, "-c", PREPARED + textwrap.dedent(program), cwd=tmp_path)
    assert done.returncode == 137
    assert (
        "The command was killed by SIGKILL: calls that were open, and spans of the last 100 ms, "
        "may be missing." in done.stderr
    )
    assert "1 span has a parent that was not received" in done.stderr


def _script(folder: Path) -> list[str]:
    path = folder / "script"
    path.write_text(f"#!{PYTHON} -I\nprint('ran')\n")
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([PYTHON, "-c", "raise SystemExit(1)"], "exited with status 1 before any call ended"),
        ([PYTHON, "-c", ""], "made no call through a library that is instrumented"),
        ([PYTHON, "-I", "-c", ""], "ran with -I, which ignores the start-up module of `run`"),
        (["sh", "-c", "exit 0"], "sh is not a Python program"),
        (_script, "ran with -I, which ignores the start-up module of `run`"),
    ],
    ids=["exited", "no call", "isolated", "not Python", "isolated script"],
)
def test_missing_telemetry_is_explained(tmp_path: Path, command, reason: str) -> None:
    arguments = command(tmp_path) if callable(command) else command
    done = run("--", *arguments, cwd=tmp_path)
    [line] = [each for each in done.stderr.splitlines() if each.startswith("No telemetry received")]
    assert reason in line


def test_existing_output_gets_a_run_and_the_summary_covers_this_run_only(
    tmp_path: Path, llama_server: LlamaServer
) -> None:
    server = {"OPENAI_BASE_URL": llama_server.url, "OPENAI_API_KEY": "none"}
    arguments = ("--output", "run.db", "--json", "--", PYTHON, "-c", ONE_CALL)
    for tokens in ("3", "5"):
        done = run(*arguments, tokens, cwd=tmp_path, **server)
        assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert (outcome["calls"], outcome["errors"], outcome["exit_status"]) == (1, 0, 0)
    assert outcome["by_operation_and_model"][0]["output_tokens"] == 5
    assert outcome["database"] == "run.db"
    with StoreReader(tmp_path / "run.db") as reader:
        runs = reader.runs()
        assert [each.command[-1] for each in runs] == ["3", "5"]
        assert [each.exit_status for each in runs] == [0, 0]
        assert all(each.ended_ns and each.ended_ns > each.started_ns for each in runs)
        spans = len(list(reader.spans()))
    assert runs[1].after["spans"] == spans / 2
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "exit status 0" in page


def test_json_is_a_line_of_its_own_whatever_the_command_has_printed(tmp_path: Path) -> None:
    done = run("--json", "--", "printf", "no line break", cwd=tmp_path)
    first, *_, last = done.stdout.splitlines()
    assert first == "no line break"
    assert json.loads(last)["exit_status"] == 0


def test_fail_on_error_exits_with_1_if_a_call_failed(tmp_path: Path) -> None:
    program = """
        import openai
        client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0)
        try:
            client.embeddings.create(model="m", input="x")
        except openai.APIError:
            pass
    """
    command = ("--", PYTHON, "-c", textwrap.dedent(program))
    assert run(*command, cwd=tmp_path).returncode == 0
    done = run("--fail-on-error", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert "Errors: " in done.stderr
    assert run("--fail-on-error", "--", "sh", "-c", "exit 7", cwd=tmp_path).returncode == 7
