"""The command line: help, exit status, imports and output encoding."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import llamatelemetry
from llamatelemetry.cli._app import app

COMMANDS = ["demo", "doctor", "topology"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_shows_an_example(command: str):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: llamatelemetry {command}" in result.output


def test_help_describes_every_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    listed = [line.split()[1:3] for line in result.output.splitlines() if line.startswith("│")]
    assert {command for command, *text in listed if text} >= set(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["demo", "--no-such-option"],
        ["demo", "--model", "/no/such/model.gguf"],
        ["demo", "--base-url", "localhost:8080"],
        ["demo", "--base-url", "ftp://localhost"],
        ["demo", "--base-url", "http://localhost:8080", "--model", __file__],
        ["demo", "--output", __file__],
        ["topology", "--no-such-option"],
        *(
            ["doctor", "--server", url]
            for url in ("127.0.0.1:8080", "ftp://host", "http://", "http://host:port")
        ),
    ],
)
def test_invalid_arguments_exit_with_2(arguments: list[str]):
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "llamatelemetry"],
        [sys.executable, "-m", "llamatelemetry.cli"],
        [str(Path(sys.executable).with_name("llamatelemetry"))],
    ],
    ids=["package", "module", "script"],
)
def test_command_line_runs_as_module_and_script(command: list[str]):
    output = subprocess.check_output([*command, "--version"], text=True)
    assert output == f"{llamatelemetry.__version__}\n"


@pytest.mark.parametrize("module", ["llamatelemetry", "llamatelemetry.cli"])
def test_command_line_names_the_install_command_when_typer_is_missing(tmp_path: Path, module: str):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('missing', name='typer')")
    done = subprocess.run(
        [sys.executable, "-m", module, "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    expected = "The command line needs typer. Install it: pip install llamatelemetry\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_importing_the_command_line_imports_no_command():
    program = (
        "import sys, llamatelemetry.cli._app\n"
        "print(sorted(n for n in sys.modules if n.startswith(('llamatelemetry.', 'openai', "
        "'opentelemetry', 'xllamacpp'))))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    # The options are imported for `--help`. The modules that run commands are not.
    assert ast.literal_eval(output) == [
        "llamatelemetry._optional",
        "llamatelemetry._setup_in_progress",
        "llamatelemetry.cli",
        "llamatelemetry.cli._app",
        "llamatelemetry.cli._bench_options",
    ]


# The second encoding is that of the locale "C" with PYTHONUTF8=0.
@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape"])
def test_report_replaces_characters_that_cannot_be_encoded(tmp_path: Path, encoding: str):
    recorded = tmp_path / os.fsdecode("recorded é".encode())
    recorded.mkdir()
    (recorded / "traces-1.jsonl").touch()
    command = [sys.executable, "-m", "llamatelemetry.cli", "report", recorded]
    shown = subprocess.check_output(command, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert re.search(rb"/recorded \?+/report\.html\n$", shown)
    assert (recorded / "report.html").exists()


def test_shell_completion_names_commands():
    environment = {**os.environ, "_LLAMATELEMETRY_COMPLETE": "complete_bash"}
    found = subprocess.check_output(
        [str(Path(sys.executable).with_name("llamatelemetry"))],
        env={**environment, "COMP_WORDS": "llamatelemetry re", "COMP_CWORD": "1"},
        text=True,
    )
    assert found.split() == ["report"]
