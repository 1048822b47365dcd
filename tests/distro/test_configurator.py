"""The zero-code path. Each test starts a process as a user would."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.support.otlp_receiver import http_receiver
from tests.support.temporary_distributions import make_distribution, make_instrumentor

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}

# A program without llamatelemetry code: it records one of each signal, and prints its state.
PROGRAM = """
import json, os, sys, threading
from opentelemetry import _logs, metrics, trace
trace.get_tracer("test").start_span("a span").end()
metrics.get_meter("test").create_counter("a counter".replace(" ", ".")).add(1)
_logs.get_logger("test").emit(body="a record")
print(json.dumps({
    "provider": type(trace.get_tracer_provider()).__name__,
    "threads": [thread.name for thread in threading.enumerate()],
    "otel_variables": sorted(n for n in os.environ if n.startswith(("OTEL_", "LLAMATELEMETRY_"))),
    "modules": sorted(sys.modules),
    "patched": "llamatelemetry_instrumentation_openai" in sys.modules
        and sys.modules["llamatelemetry_instrumentation_openai"].OpenAIInstrumentor()
            .is_instrumented_by_opentelemetry,
}))
"""

needs_declarative = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.configuration") is None,
    reason="needs opentelemetry-configuration (the extra `declarative`)",
)


@pytest.fixture
def receiver():
    with http_receiver() as received:
        yield received


def instrumented(
    *program: str, path: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the concatenated parts of a program under `opentelemetry-instrument`."""
    code = "".join(map(textwrap.dedent, program or (PROGRAM,)))
    python_path = {"PYTHONPATH": str(path)} if path is not None else {}
    return subprocess.run(
        [INSTRUMENT, sys.executable, "-c", code],
        env={**os.environ, **python_path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def seen(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def distribution_is_installed(name: str) -> bool:
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True


@pytest.fixture
def site_without_the_other_distro(tmp_path) -> Path:
    """Create a directory with all installed packages except `opentelemetry-distro`."""
    folder = tmp_path / "site"
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("opentelemetry_distro"):
            (folder / entry.name).symlink_to(entry)
    return folder


class TestSetUp:
    def test_distro_is_used_next_to_opentelemetry_distro_when_variable_names_it(self, receiver):
        if not distribution_is_installed("opentelemetry-distro"):
            pytest.skip("opentelemetry-distro is not installed")
        done = instrumented(
            **OURS, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SERVICE_NAME="zero"
        )
        state = seen(done)
        assert state["provider"] == "DelegatingTracerProvider"
        assert state["patched"]
        assert not any(name.split(".")[0] == "openai" for name in state["modules"])
        assert receiver.spans() == ["a span"]
        assert receiver.metrics() == {"a.counter"}
        assert receiver.logs() == ["a record"]
        resource = receiver.resources("traces")[0]
        assert resource["telemetry.distro.name"] == "llamatelemetry"
        assert resource["service.name"] == "zero"
        assert "telemetry.auto.version" in resource

    def test_distro_needs_no_variable_when_installed_alone(
        self, receiver, site_without_the_other_distro
    ):
        initialize = (
            "from opentelemetry.instrumentation.auto_instrumentation import initialize\n"
            "initialize(swallow_exceptions=False)\n"
        )
        source = Path(__file__).parents[2] / "src"
        done = subprocess.run(
            # -S excludes the real site-packages, which has the other distro.
            [sys.executable, "-S", "-W", "error", "-c", initialize + PROGRAM],
            env={
                **os.environ,
                "PYTHONPATH": f"{site_without_the_other_distro}{os.pathsep}{source}",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert seen(done)["provider"] == "DelegatingTracerProvider"
        assert done.stderr == ""
        assert receiver.spans() == ["a span"]
        assert receiver.resources("logs")[0]["telemetry.distro.name"] == "llamatelemetry"

    def test_program_sees_unchanged_environment(self):
        state = seen(instrumented(**OURS, LLAMATELEMETRY_EXPORTER="none"))
        assert state["otel_variables"] == ["LLAMATELEMETRY_EXPORTER", "OTEL_PYTHON_DISTRO"]

    def test_file_exporter_is_selected_by_otel_variable(self, tmp_path):
        done = instrumented(
            **OURS,
            OTEL_TRACES_EXPORTER="file",
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            LLAMATELEMETRY_EXPORT_PATH=str(tmp_path),
        )
        seen(done)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("traces-")
        assert '"name":"a span"' in file.read_text()

    def test_configurator_named_by_user_is_used(self, receiver):
        if not distribution_is_installed("opentelemetry-distro"):
            pytest.skip("opentelemetry-distro is not installed")
        state = seen(
            instrumented(
                **OURS,
                OTEL_PYTHON_CONFIGURATOR="configurator",
                OTEL_TRACES_EXPORTER="none",
                OTEL_METRICS_EXPORTER="none",
                OTEL_LOGS_EXPORTER="none",
            )
        )
        assert state["provider"] == "TracerProvider"
        assert state["patched"]

    def test_second_initialization_changes_and_logs_nothing(self, receiver):
        done = instrumented(
            """
            from opentelemetry.instrumentation.auto_instrumentation import initialize
            import threading
            before = threading.active_count()
            initialize(swallow_exceptions=False)
            assert threading.active_count() == before
            """,
            PROGRAM,
            **OURS,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
        seen(done)
        assert "Overriding" not in done.stderr
        assert "already instrumented" not in done.stderr
        assert receiver.spans() == ["a span"]

    def test_init_attaches_to_zero_code_setup_and_names_ignored_options(self, receiver):
        done = instrumented(
            """
            import llamatelemetry, threading
            before = threading.active_count()
            config = llamatelemetry.init("other", log_level="INFO")
            assert config.service_name == "zero", config
            assert threading.active_count() == before
            """,
            PROGRAM,
            **OURS,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            LLAMATELEMETRY_SERVICE_NAME="zero",
        )
        seen(done)
        assert done.stderr.count("Ignored service_name") == 1
        assert receiver.resources("traces")[0]["service.name"] == "zero"

    def test_init_creates_same_resource_as_zero_code_path(self, receiver):
        seen(instrumented(**OURS, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url))
        done = subprocess.run(
            [sys.executable, "-c", f"import llamatelemetry; llamatelemetry.init()\n{PROGRAM}"],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert seen(done)["patched"]
        zero_code, in_code = receiver.resources("traces")
        assert zero_code.pop("service.instance.id") != in_code.pop("service.instance.id")
        assert zero_code == in_code

    def test_workers_forked_after_setup_export_on_their_own(self, receiver):
        done = instrumented(
            """
            import os, sys
            from opentelemetry import metrics, trace
            counter = metrics.get_meter("m").create_counter("requests")
            tracer = trace.get_tracer("t")
            for n in range(2):
                if os.fork() == 0:
                    tracer.start_span(f"worker {n}").end()
                    counter.add(1)
                    import llamatelemetry
                    os._exit(0 if llamatelemetry.flush() else 1)
            assert [os.wait()[1] for _ in range(2)] == [0, 0]
            print("{}")
            """,
            **OURS,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
        seen(done)
        assert sorted(receiver.spans()) == ["worker 0", "worker 1"]
        instances = {each["service.instance.id"] for each in receiver.resources("traces")}
        assert len(instances) == 2


class TestInstrumentors:
    def test_competing_instrumentor_is_skipped_and_broken_one_stops_no_other(self, tmp_path):
        make_instrumentor(tmp_path, "rival-package", "openai", "throwaway_rival")
        make_instrumentor(tmp_path, "a-broken", "broken", "throwaway_broken", body="1 / 0")
        make_instrumentor(tmp_path, "z-good", "good", "throwaway_good")
        make_distribution(
            tmp_path,
            "hooks",
            entry_points={"opentelemetry_post_instrument": {"hook": "throwaway_hook:run"}},
            modules={"throwaway_hook": "def run(): print('post-instrument hook')"},
        )
        done = instrumented(
            """
            import json, sys
            active = [n for n in ("rival", "broken", "good") if f"throwaway_{n}" in sys.modules]
            print(json.dumps(active))
            """,
            path=tmp_path,
            **OURS,
            LLAMATELEMETRY_EXPORTER="none",
        )
        assert done.returncode == 0
        assert done.stdout.splitlines() == ["post-instrument hook", '["broken", "good"]']
        assert done.stderr.count("Not loading instrumentor openai (rival-package 1.0)") == 1
        assert done.stderr.count("ZeroDivisionError") == 1

    def test_disabled_instrumentors_are_not_loaded(self):
        state = seen(
            instrumented(
                **OURS,
                LLAMATELEMETRY_EXPORTER="none",
                OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="llamatelemetry_openai",
            )
        )
        assert not state["patched"]


class TestDisabled:
    @pytest.mark.parametrize("more", [{}, {"OTEL_CONFIG_FILE": "/no/such/file"}])
    def test_disabled_sdk_creates_no_provider_thread_or_patch(self, tmp_path, more):
        make_instrumentor(tmp_path, "z-good", "good", "throwaway_good")
        done = instrumented(path=tmp_path, **OURS, **more, OTEL_SDK_DISABLED="true")
        state = seen(done)
        assert state["provider"] == "ProxyTracerProvider"
        assert state["threads"] == ["MainThread"]
        assert not state["patched"]
        assert "throwaway_good" not in state["modules"]
        assert state["otel_variables"] == sorted(["OTEL_PYTHON_DISTRO", "OTEL_SDK_DISABLED", *more])


@needs_declarative
class TestDeclarativeFile:
    FILE = """
file_format: "1.0"
resource:
  attributes:
    - {{name: service.name, value: from-file}}
tracer_provider:
  processors:
    - batch: {{exporter: {{otlp_http: {{endpoint: "{url}/v1/traces"}}}}}}
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: "{url}/v1/metrics"}}}}}}
{more}
"""

    def file(self, tmp_path: Path, receiver, more: str = "") -> dict[str, str]:
        path = tmp_path / "otel.yaml"
        path.write_text(self.FILE.format(url=receiver.url, more=textwrap.dedent(more)))
        return {**OURS, "OTEL_CONFIG_FILE": str(path)}

    def test_file_configures_sdk_and_processors_are_prepended(self, tmp_path, receiver):
        environ = self.file(tmp_path, receiver)
        done = instrumented(
            """
            import llamatelemetry
            from opentelemetry.sdk.trace import SpanProcessor
            class Rename(SpanProcessor):
                def on_end(self, span): span._name = "renamed"
            llamatelemetry.init(span_processors=[Rename()])
            """,
            PROGRAM,
            **environ,
        )
        state = seen(done)
        assert state["provider"] == "DelegatingTracerProvider"
        assert state["patched"]
        assert receiver.spans() == ["renamed"]
        assert receiver.metrics() == {"a.counter"}
        assert receiver.logs() == []  # the file has no logger_provider
        resource = receiver.resources("traces")[0]
        assert resource["service.name"] == "from-file"
        assert resource["telemetry.distro.name"] == "llamatelemetry"

    def test_init_applies_file_repeatedly_and_names_ignored_options(self, tmp_path, receiver):
        environ = self.file(tmp_path, receiver)
        program = """
            from opentelemetry import trace
            tracer = trace.get_tracer("t")
            import llamatelemetry
            for n in range(2):
                llamatelemetry.init("in-code", otlp_endpoint="http://x:1")
                tracer.start_span(f"span {n}").end()
                assert llamatelemetry.shutdown()
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert receiver.spans() == ["span 0", "span 1"]
        assert {each["service.name"] for each in receiver.resources("traces")} == {"in-code"}
        assert (
            done.stderr.splitlines()
            == ["Ignored otlp_endpoint: OTEL_CONFIG_FILE is set. Set them in that file"] * 2
        )

    def test_provider_of_file_is_shut_down_when_application_set_its_own(self, tmp_path, receiver):
        environ = self.file(tmp_path, receiver)
        program = """
            import threading
            from opentelemetry import trace
            from opentelemetry.sdk.trace import TracerProvider
            own = TracerProvider()
            trace.set_tracer_provider(own)
            import llamatelemetry
            llamatelemetry.init()
            assert trace.get_tracer_provider() is own
            assert [t.name for t in threading.enumerate()] == [
                "MainThread", "OtelPeriodicExportingMetricReader", "llamatelemetry-signals"]
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_instrumentors_disabled_by_file_are_not_loaded(self, tmp_path, receiver):
        make_instrumentor(tmp_path, "z-good", "good", "throwaway_good")
        make_instrumentor(tmp_path, "z-bad", "bad", "throwaway_bad")
        environ = self.file(
            tmp_path,
            receiver,
            """
            instrumentation/development:
              python:
                llamatelemetry_openai: {enabled: false}
                good: {enabled: true}
                bad: {enabled: false}
            """,
        )
        done = instrumented(
            """
            import json, sys
            import llamatelemetry_instrumentation_openai as ours
            good = sys.modules["throwaway_good"]
            print(json.dumps({
                "ours": ours.OpenAIInstrumentor().is_instrumented_by_opentelemetry,
                "good": len(good.CALLS),
                "bad": "throwaway_bad" in sys.modules,
            }))
            import llamatelemetry
            llamatelemetry.shutdown()
            assert good.CALLS[-1][0] == "uninstrument"
            """,
            path=tmp_path,
            **environ,
        )
        assert seen(done) == {"ours": False, "good": 1, "bad": False}
        assert "already instrumented" not in done.stderr

    def test_disabled_file_leaves_process_unchanged(self, tmp_path, receiver):
        state = seen(instrumented(**self.file(tmp_path, receiver, "disabled: true")))
        assert not state["patched"]
        assert state["threads"] == ["MainThread"]

    def test_unusable_file_is_logged_and_program_runs(self, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text("file_format: [")
        done = instrumented(**OURS, OTEL_CONFIG_FILE=str(path))
        assert seen(done)["threads"] == ["MainThread"]
        assert f"OTEL_CONFIG_FILE must be a declarative configuration file, got '{path}'" in (
            done.stderr
        )


LOGGING = """
    import logging, sys
    import llamatelemetry
    {before}
    llamatelemetry.init(exporter="none", gpu_enrichment=False, {options})
    logging.getLogger("llamatelemetry.test").debug("a detail")
    logging.getLogger("llamatelemetry.test").warning("a warning")
"""


@pytest.mark.parametrize(
    ("variables", "options", "before", "lines"),
    [
        ({}, "", "", ["a warning"]),
        (
            {"LLAMATELEMETRY_LOG_LEVEL": "DEBUG"},
            "",
            "",
            ["DEBUG llamatelemetry.test: a detail", "WARNING llamatelemetry.test: a warning"],
        ),
        (
            {},
            "log_level='debug'",
            "",
            ["DEBUG llamatelemetry.test: a detail", "WARNING llamatelemetry.test: a warning"],
        ),
        (
            {"LLAMATELEMETRY_LOG_LEVEL": "DEBUG"},
            "",
            "logging.basicConfig(format='own: %(message)s', level='DEBUG')",
            ["own: a detail", "own: a warning"],
        ),
        ({"LLAMATELEMETRY_LOG_LEVEL": "ERROR"}, "", "", []),
        (
            {},
            "",
            "llamatelemetry.init(exporter='none', log_level='DEBUG'); llamatelemetry.shutdown()",
            ["a warning"],
        ),
    ],
)
def test_explicit_log_level_prints_records_without_handler_of_application(
    variables, options, before, lines
):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOGGING.format(options=options, before=before))],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [
        line for line in done.stderr.splitlines() if "a detail" in line or "a warning" in line
    ] == lines
