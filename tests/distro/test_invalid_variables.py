"""Invalid values of OpenTelemetry's variables, in every way to start telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.invalid_variables import INVALID
from tests.support.otlp_receiver import grpc_receiver, http_receiver

CLI = [sys.executable, "-m", "llamatelemetry.cli"]
APPLICATION = """
from opentelemetry import metrics, trace
trace.get_tracer("application").start_span("work").end()
metrics.get_meter("application").create_counter("work.done").add(1)
print("application done")
"""
IN_CODE = f"import llamatelemetry\nllamatelemetry.init(){APPLICATION}"
# OpenTelemetry's own launcher reads these before it loads any distro.
BEFORE_DISTRO = ("OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT")


def invalid_variables() -> dict[str, str]:
    """Return every variable of the table at once, each with an invalid value."""
    return {
        **{name: value for name, value, _ in INVALID if not name.endswith("OTLP_ENDPOINT")},
        "OTEL_TRACES_EXPORTER": "otlp,nonesuch",
        "OTEL_METRICS_EXPORTER": "otlp,nonesuch",
        "OTEL_LOGS_EXPORTER": "otlp,nonesuch",
    }


def environment(invalid: dict[str, str], **more: str) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    return {**clean, "COLUMNS": "300", "LLAMATELEMETRY_GPU_ENRICHMENT": "false", **invalid, **more}


def check(done: subprocess.CompletedProcess[str], expected: set[str]) -> None:
    assert done.stdout == "application done\n"
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    named = [line.split()[0] for line in done.stderr.splitlines() if " must " in line]
    assert sorted(named) == sorted(expected), done.stderr


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("start", ["init", "opentelemetry-instrument"])
@pytest.mark.slow
def test_invalid_variables_are_named_once_and_telemetry_goes_on(
    tmp_path: Path, start: str, protocol: str
) -> None:
    invalid = invalid_variables()
    if start == "init":
        command = [sys.executable, "-c", IN_CODE]
    else:
        for name in BEFORE_DISTRO:
            del invalid[name]
        command = [str(Path(sys.executable).with_name(start)), sys.executable, "-c", APPLICATION]
    with (grpc_receiver if protocol == "grpc" else http_receiver)() as receiver:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(
                invalid,
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
    check(done, set(invalid))
    assert receiver.spans() == ["work"]
    assert "work.done" in receiver.metrics()


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_unknown_exporter_disables_only_its_signal(tmp_path: Path, signal: str) -> None:
    with http_receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", IN_CODE],
            cwd=tmp_path,
            env=environment(
                {f"OTEL_{signal.upper()}_EXPORTER": "nonesuch"},
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stderr == (
        f"OTEL_{signal.upper()}_EXPORTER must name installed exporters, got 'nonesuch'. "
        f"{signal.capitalize()} are not exported\n"
    )
    assert receiver.spans() == ([] if signal == "traces" else ["work"])
    assert ("work.done" in receiver.metrics()) is (signal != "metrics")


@pytest.mark.parametrize("content", [None, "file_format: ["])
@pytest.mark.parametrize("start", ["init", "opentelemetry-instrument"])
def test_invalid_configuration_file_is_named_and_application_runs(
    tmp_path: Path, start: str, content: str | None
) -> None:
    pytest.importorskip("opentelemetry.configuration")
    if content is not None:
        (tmp_path / "otel.yaml").write_text(content)
    if start == "init":
        command = [sys.executable, "-c", IN_CODE]
    else:
        command = [str(Path(sys.executable).with_name(start)), sys.executable, "-c", APPLICATION]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment({"OTEL_CONFIG_FILE": "otel.yaml"}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    check(done, {"OTEL_CONFIG_FILE"})
    assert "OpenTelemetry is not set up, nothing is recorded" in done.stderr


def test_run_names_invalid_variables_and_records_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "run", "--no-report", "--", sys.executable, "-c", APPLICATION],
        cwd=tmp_path,
        env=environment(invalid_variables()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "application done\n")
    assert "Traceback" not in done.stderr
    assert "received 1 other spans" in done.stderr
    # Each of the two processes warns of what it reads. `run` replaces the exporters.
    named = {line.split()[0] for line in done.stderr.splitlines() if " must " in line}
    replaced = {name for name in invalid_variables() if name.startswith("OTEL_EXPORTER_OTLP_")}
    assert {"OTEL_PROPAGATORS", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_TRACES_SAMPLER"} <= named
    assert not {name for name in named & replaced if name.endswith("HEADERS")}


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (("report", "nonesuch.db"), 1, "error: no such file: nonesuch.db"),
        (("bench", "--url", "http://127.0.0.1:1"), 1, "Cannot connect to http://127.0.0.1:1"),
        (("topology",), 0, ""),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_command_runs_with_invalid_variables(
    tmp_path: Path, arguments: tuple[str, ...], status: int, printed: str
) -> None:
    done = subprocess.run(
        [*CLI, *arguments],
        cwd=tmp_path,
        env=environment(invalid_variables(), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert printed in done.stderr
