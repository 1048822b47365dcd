"""Each optional package missing in turn: its features name the install command, the rest works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry._optional import MissingPackageError, required_by
from tests.support.selection import slow_except
from tests.support.timed_server import scripted_server

PROGRAM = Path(__file__).with_name("support") / "contract_calls.py"

# What cannot work without a package, of the calls and commands of the program.
CLIENTS = {"LlamaCppClient", "AsyncLlamaCppClient", "engines", "bench"}
FRAMES = {
    f"{what} to_dataframe{end}"
    for what, end in (("benchmark", ""), ("topology", ""), ("trace graph", "s"))
}
COMMAND_LINE = {
    *("--help", "--version", "doctor", "topology", "topology --json", "run", "run --grpc-port"),
    *("report", "bench"),
}
OTHERS = ",".join(
    [
        *("xllamacpp", "httpx", "graphistry", "pynvml", "gunicorn", "uvicorn"),
        *("opentelemetry.configuration", "opentelemetry.util.genai"),
    ]
)
NEEDED_BY: dict[str, set[str]] = {
    "numpy,pandas": {"benchmark compare", "bench --compare", *FRAMES},
    "scipy": {"benchmark compare", "bench --compare"},
    "pandas": FRAMES,
    "jinja2": {
        "benchmark",
        "benchmark summary",
        "benchmark compare",
        "benchmark to_dataframe",
        "graphs",
        "report",
        "bench",
    },
    "rich": {"benchmark summary", *COMMAND_LINE} - {"--version", "topology", "topology --json"},
    "typer": COMMAND_LINE,
    "httpx2": CLIENTS,
    "openai": {"demo"},
    "regex": {"redaction by pattern"},
    "torch": {"TransformersBackend", "NCCLGroup"},
    "transformers": {"TransformersBackend"},
    "gguf": {"TransformersBackend"},
    "opentelemetry.sdk": {
        "init",
        "names of llamatelemetry.otel",
        "redaction",
        "redaction by pattern",
        "bench",
    },
    "grpc": {"run --grpc-port"},
    "requests": set(),
    # What the rest of the environment may bring or not.
    OTHERS: {"demo", "ServerManager"},
}
HEAVY = {"torch", "transformers", "gguf"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server.url


def outcomes(missing: str, folder: Path, *urls: str) -> tuple[dict[str, Any], str]:
    settings = {
        "MISSING": missing,
        # A reader's environment has one distro; opentelemetry-distro is here for other tests.
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "LLAMATELEMETRY_EXPORTER": "file",
        "LLAMATELEMETRY_EXPORT_PATH": str(folder / "data"),
        "PATH": str(folder),  # no llama-server
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "300",
    }
    done = subprocess.run(
        [sys.executable, PROGRAM, urls[0], folder, *urls[1:]],
        env=os.environ | settings | ({"HEAVY": "1"} if missing in HEAVY else {}),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("missing", slow_except({"", "scipy"}, ["", *NEEDED_BY]))
def test_each_call_works_or_says_what_to_install(
    missing: str, tmp_path: Path, llama_server: Any, scripted: str
) -> None:
    found, log = outcomes(missing, tmp_path, llama_server.origin, scripted)
    calls, commands = found["calls"], found["commands"]
    for name, outcome in calls.items():
        if outcome != "ok":
            assert "ModuleNotFoundError" not in outcome, name
            assert "pip install" in outcome, (name, outcome)
    for name, done in commands.items():
        assert "Traceback" not in done["err"], (name, done)
        if done["status"] != 0:
            assert "pip install" in done["out"] + done["err"], (name, done)
    if missing in {"grpc", "requests"}:  # the exporters are told to use it
        assert f"The configured export needs {missing}. Install it: pip install" in log
        assert "Traceback" not in log
    if missing == "grpc":
        assert "needs grpc. Install it: pip install" in commands["run --grpc-port"]["err"]
    failed = {name for name, outcome in calls.items() if outcome != "ok"}
    failed |= {name for name, done in commands.items() if done["status"] != 0}
    assert failed == NEEDED_BY.get(missing, set()), (calls, commands)


def test_missing_package_error_names_feature_package_and_command() -> None:
    with (
        pytest.raises(MissingPackageError) as raised,
        required_by("This", "llamatelemetry[bench]", "other"),
    ):
        import opentelemetry.nowhere.at_all  # noqa: F401
    expected = (
        "This needs opentelemetry.nowhere. Install it: pip install 'llamatelemetry[bench]' other"
    )
    assert str(raised.value) == expected
    with pytest.raises(MissingPackageError, match=r"^This needs nowhere\. "), required_by("This"):
        import nowhere.at_all  # noqa: F401


def test_import_that_fails_for_another_reason_is_reraised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("raise ImportError('built for another machine')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="built for another machine"), required_by("This", "x"):
        import broken_library  # noqa: F401
