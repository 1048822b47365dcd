"""GPU telemetry of whole programs: `init()`, zero-code, declarative file, application providers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import nvml
from tests.support.otlp_receiver import http_receiver
from tests.support.waiting import wait_for

INSTRUMENT = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
SETTINGS = {
    "OTEL_PYTHON_DISTRO": "llamatelemetry",
    "LLAMATELEMETRY_EXPORTER": "file",
    "LLAMATELEMETRY_EXPORT_PATH": "exported",
    "LLAMATELEMETRY_GPU_INTERVAL_MS": "20",
    "LLAMATELEMETRY_SERVICE_NAME": "gpu-test",
    "LLAMATELEMETRY_LOG_LEVEL": "INFO",
}
WORK = """
import time
from opentelemetry import trace
time.sleep(0.3)  # time for some readings, every 20 ms
trace.get_tracer("app").start_span("work").end()
trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
"""
INIT = "import llamatelemetry\nllamatelemetry.init()\n"
SHUTDOWN = "\nassert llamatelemetry.shutdown()\n"


class Program:
    """A program with its own directory and TMPDIR, and the telemetry it exported to files."""

    def __init__(self, folder: Path, driver: nvml.Driver | None) -> None:
        self.folder = folder
        self._driver = driver

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        driver = self._driver.environment if self._driver else {}
        # The lock file of the leader election is in TMPDIR.
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {"TMPDIR": str(self.folder / "tmp")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **SETTINGS, **driver, **own, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *launcher: str, **environ: str) -> tuple[str, str]:
        """Run the program. Return standard output and standard error."""
        program = self.start(*launcher, sys.executable, "-c", code, **environ)
        said, logged = program.communicate(timeout=60)
        assert program.returncode == 0, logged
        return said, logged

    def lines(self, signal_name: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / "exported").glob(f"{signal_name}-*.jsonl")):
            lines = path.read_text().splitlines(keepends=True)
            # The last line may be incomplete.
            yield from (json.loads(line) for line in lines if line.endswith("\n"))

    def spans(self) -> dict[str, dict[str, Any]]:
        return {
            span["name"]: attributes_of(span)
            for line in self.lines("traces")
            for resource in line["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        }

    def resource(self) -> dict[str, Any]:
        return attributes_of(next(self.lines("traces"))["resourceSpans"][0]["resource"])

    def points(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield metric, service instance and data point."""
        for line in self.lines("metrics"):
            for resource in line["resourceMetrics"]:
                instance = attributes_of(resource["resource"])["service.instance.id"]
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        data = metric.get("gauge") or metric.get("sum") or metric["histogram"]
                        for point in data["dataPoints"]:
                            yield metric["name"], instance, point

    def metrics(self) -> set[str]:
        return {name for name, _, _ in self.points()}


def attributes_of(item: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: plain(each["value"]) for each in item.get("attributes", ())}


def plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    return [plain(each) for each in content["values"]] if kind == "arrayValue" else content


@pytest.fixture
def on_one_gpu(tmp_path) -> Program:
    return Program(tmp_path, nvml.Driver(tmp_path, nvml.one_gpu()))


@pytest.fixture
def without_gpu(tmp_path) -> Program:
    return Program(tmp_path, None)


STATE = {
    "llamatelemetry.gpu.ids": [nvml.uuid(0)],
    "llamatelemetry.gpu.utilization": [pytest.approx(0.4)],
    "llamatelemetry.gpu.utilization_peak": [0.4],
    "llamatelemetry.gpu.memory_used": [str(20 * nvml.GIB)],
    "llamatelemetry.gpu.power": [pytest.approx(300.5)],
    "llamatelemetry.gpu.temperature": [55.0],
}


def gpu_attributes(span: dict[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in span.items() if k.startswith("llamatelemetry.gpu.")}
    return json.loads(json.dumps(found), parse_int=str) if found else found


@pytest.mark.parametrize("how", ["init", "zero code"])
def test_spans_metrics_and_resource_describe_the_gpu(on_one_gpu, how):
    if how == "init":
        on_one_gpu.run(INIT + WORK + SHUTDOWN)
    else:
        on_one_gpu.run(WORK, INSTRUMENT)
    assert on_one_gpu.spans()["work"] == STATE
    assert {"hw.power", "hw.energy", "hw.status", "hw.gpu.io"} <= on_one_gpu.metrics()
    resource = on_one_gpu.resource()
    assert {k: v for k, v in resource.items() if ".gpu." in k} == {
        "llamatelemetry.gpu.count": "1",
        "llamatelemetry.gpu.ids": [nvml.uuid(0)],
        "llamatelemetry.gpu.names": ["NVIDIA H100 80GB HBM3"],
        "llamatelemetry.gpu.memory_total": [str(80 * nvml.GIB)],
        "llamatelemetry.gpu.compute_capability": ["9.0"],
        "llamatelemetry.gpu.driver_version": "570.133.20",
        "llamatelemetry.gpu.cuda_version": "12.8",
    }
    assert resource["service.name"] == "gpu-test"
    # The processes share their call counts through this file.
    assert len(list((on_one_gpu.folder / "tmp").glob("llamatelemetry-*/gpu-calls"))) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.configuration") is None,
    reason="needs opentelemetry-configuration (the extra `declarative`)",
)
def test_declarative_file_enables_gpu_telemetry(on_one_gpu):
    with http_receiver() as receiver:
        file = on_one_gpu.folder / "otel.yaml"
        file.write_text(f"""
file_format: "1.0"
tracer_provider:
  processors:
    - simple: {{exporter: {{otlp_http: {{endpoint: "{receiver.url}/v1/traces"}}}}}}
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: "{receiver.url}/v1/metrics"}}}}}}
""")
        on_one_gpu.run(INIT + WORK + SHUTDOWN, OTEL_CONFIG_FILE=str(file))
        (span, _) = (
            span
            for request in receiver.messages["traces"]
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        assert "llamatelemetry.gpu.power" in {each.key for each in span.attributes}
        assert "hw.power" in receiver.metrics()
        assert receiver.resources("traces")[0]["llamatelemetry.gpu.driver_version"] == "570.133.20"


def test_spans_of_application_provider_are_enriched_before_its_exporter(
    on_one_gpu,
):
    said, _ = on_one_gpu.run(
        """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
"""
        + INIT
        + WORK
        + SHUTDOWN
        + 'trace.get_tracer("app").start_span("after").end()'
    )
    work, rest = said.split('"name": "chat"')
    assert '"llamatelemetry.gpu.power"' in work
    assert '"llamatelemetry.gpu.power"' not in rest.split('"name": "after"')[1]


@pytest.mark.parametrize(
    ("setting", "work", "chat"),
    [("true", True, True), ("genai", False, True), ("false",) + (False,) * 2],
)
def test_gpu_enrichment_option_selects_spans(on_one_gpu, setting, work, chat):
    on_one_gpu.run(INIT + WORK + SHUTDOWN, LLAMATELEMETRY_GPU_ENRICHMENT=setting)
    spans = on_one_gpu.spans()
    assert "llamatelemetry.gpu.power" in spans["work"] or not work
    assert ("llamatelemetry.gpu.power" in spans["work"]) is work
    assert ("llamatelemetry.gpu.power" in spans["chat"]) is chat
    assert "hw.power" in on_one_gpu.metrics()


def test_spans_are_enriched_when_metrics_are_disabled(on_one_gpu):
    on_one_gpu.run(INIT + WORK + SHUTDOWN, LLAMATELEMETRY_METRICS="false")
    assert "llamatelemetry.gpu.power" in on_one_gpu.spans()["work"]
    assert on_one_gpu.metrics() == set()


THREADS = """
import threading
print([each.name for each in threading.enumerate() if "gpu" in each.name])
"""


def test_gpu_is_not_read_when_metrics_and_enrichment_are_disabled(on_one_gpu):
    off = {"LLAMATELEMETRY_METRICS": "false", "LLAMATELEMETRY_GPU_ENRICHMENT": "false"}
    said, _ = on_one_gpu.run(INIT + WORK + THREADS + SHUTDOWN, **off)
    assert said.strip() == "[]"
    assert "nvmlDeviceGetPowerUsage" not in on_one_gpu._driver.count()


def test_disabled_sdk_does_not_read_the_gpu(on_one_gpu):
    said, _ = on_one_gpu.run(INIT + WORK + THREADS, OTEL_SDK_DISABLED="true")
    assert said.strip() == "[]"
    assert on_one_gpu._driver.calls() == []


def test_init_after_shutdown_restarts_thread_and_metrics(on_one_gpu):
    code = INIT + WORK + SHUTDOWN + THREADS
    said, _ = on_one_gpu.run(code + code.replace("work", "again"))
    assert said.split() == ["[]", "[]"]
    assert "llamatelemetry.gpu.power" in on_one_gpu.spans()["again"]
    times = [int(p["timeUnixNano"]) for name, _, p in on_one_gpu.points() if name == "hw.power"]
    assert max(times) - min(times) > 0.3e9  # data points of both set-ups


@pytest.mark.parametrize("launcher", [(), (INSTRUMENT,)])
def test_program_runs_without_warnings_without_a_gpu(without_gpu, launcher):
    begin, end = ("", "") if launcher else (INIT, SHUTDOWN)
    said, logged = without_gpu.run(begin + WORK + THREADS + end, *launcher)
    assert said.strip() == "[]"
    # The test environment also has opentelemetry-distro; skipping its configurator is logged. The
    # test sets the level INFO, and the missing driver is logged with it.
    expected = ("configurator not loaded", "INFO llamatelemetry.gpu: Not reading GPUs")
    assert [line for line in logged.splitlines() if not any(e in line for e in expected)] == []
    assert gpu_attributes(without_gpu.spans()["work"]) == {}
    assert [name for name in without_gpu.metrics() if "gpu" in name or "hw." in name] == []
    assert [name for name in without_gpu.resource() if "gpu" in name] == []


def test_application_threads_do_not_call_the_driver(on_one_gpu):
    said, _ = on_one_gpu.run(
        INIT + "import threading; print(threading.get_native_id())" + WORK * 3 + SHUTDOWN
    )
    threads = {call.thread for call in on_one_gpu._driver.calls()}
    assert int(said) not in threads
    assert len(threads) == 2  # resource detection and monitor


WORKERS = """
import os, signal, sys, time
import llamatelemetry
from opentelemetry import trace
# No export may run during the fork: the SDK's reader would not work in the child.
llamatelemetry.init(export_interval_ms=2500)
children = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            trace.get_tracer("app").start_span(f"worker {number}").end()
            time.sleep(0.05)
        os._exit(0)
    children.append(pid)
# The parent serves no requests, and leaves host metrics to its workers.
llamatelemetry.shutdown()
print(*children, flush=True)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_one_of_eight_forked_workers_reports_for_the_host_and_is_replaced(on_one_gpu):
    program = on_one_gpu.start(sys.executable, "-c", WORKERS)
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 8
    try:
        wait_for(lambda: enriched(on_one_gpu) == {f"worker {n}" for n in range(8)}, 40)
        first = reporter_after(on_one_gpu, set())
        os.kill(first, signal.SIGKILL)
        second = reporter_after(on_one_gpu, {first})
        assert second in workers
    finally:
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        program.communicate(timeout=30)
    reported = readings_of(on_one_gpu)
    assert set(reported) - {program.pid} == {first, second}
    joules = [reading for pid in (first, second) for reading in sorted(reported[pid])]
    assert [joule for _, joule in joules] == sorted(joule for _, joule in joules)
    assert reported[first][-1][0] < reported[second][0][0]


def enriched(program: Program) -> set[str]:
    if not (program.folder / "exported").exists():
        return set()
    return {name for name, span in program.spans().items() if STATE.keys() <= span.keys()}


def reporter_after(program: Program, dead: set[int]) -> int:
    """Return the process ID of the leader, once it has changed."""
    found: set[int] = set()

    def is_there() -> bool:
        found.clear()
        # The parent may have been the leader before it forked.
        found.update(pid for pid in readings_of(program) if pid in worker_files(program))
        found.difference_update(dead)
        return bool(found)

    wait_for(is_there, 40)
    (pid,) = found
    return pid


def worker_files(program: Program) -> set[int]:
    """Return the process IDs of the workers, which have written spans."""
    return {int(p.stem.split("-")[1]) for p in (program.folder / "exported").glob("traces-*")}


def readings_of(program: Program) -> dict[int, list[tuple[int, float]]]:
    """Return time and joules of each hw.energy data point, by process."""
    found = defaultdict(list)
    for path in (program.folder / "exported").glob("metrics-*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # incomplete line
            for resource in json.loads(line)["resourceMetrics"]:
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        if metric["name"] == "hw.energy":
                            (point,) = metric["sum"]["dataPoints"]
                            reading = (int(point["timeUnixNano"]), float(point["asDouble"]))
                            found[int(path.stem.split("-")[1])].append(reading)
    return dict(found)


CALL = """
import os
from openai import OpenAI
client = OpenAI(base_url=os.environ["URL"], api_key="none")
time.sleep(0.5)  # the GPU is observed idle
for _ in range(2):  # the first call, which may be short, locates the server
    client.chat.completions.create(
        model="model",
        max_tokens=400,  # takes some seconds; calls shorter than about 1 s have no energy
        messages=[{"role": "user", "content": "Count to fifty."}],
        extra_body={"ignore_eos": True},
    )
"""


@pytest.mark.slow
def test_call_to_real_server_on_the_gpu_has_energy(tmp_path, llama_server):
    processes = [{"pid": llama_server.pid, "memory": nvml.GIB}, {"pid": 1, "memory": 1}]
    driver = nvml.Driver(tmp_path, nvml.one_gpu(processes=processes))
    program = Program(tmp_path, driver)
    program.run(INIT + WORK + CALL + SHUTDOWN, URL=llama_server.url)
    spans = program.spans()
    (chat,) = (span for name, span in spans.items() if name.startswith("chat model"))
    tokens = int(chat["gen_ai.usage.output_tokens"])
    seconds = (chat["gen_ai.prefill_ms"] + chat["gen_ai.decode_ms"]) / 1000
    energy = chat["llamatelemetry.gpu.energy"]
    assert energy >= 300.5 * seconds * 0.95
    assert chat["llamatelemetry.gpu.energy_per_output_token"] == pytest.approx(energy / tokens)
    assert chat["llamatelemetry.gpu.energy_attribution"] == "exclusive"
    memory = {
        attributes_of(point)["process.pid"]
        for name, _, point in program.points()
        if name == "llamatelemetry.gpu.process.memory"
    }
    assert memory == {str(llama_server.pid)}
    assert "llamatelemetry.gpu.energy" not in spans["work"]
