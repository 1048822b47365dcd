"""GPU attributes of spans, and the energy of calls."""

from __future__ import annotations

import os
import threading
import time

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanKind,
    set_span_in_context,
)

from llamatelemetry.genai import Instrumenter, Request, Response, Server, known_servers
from llamatelemetry.genai.spans import DroppedSpans
from llamatelemetry.gpu.energy import CallEnergy
from llamatelemetry.gpu.monitor.monitor import GpuMonitor, Snapshot
from llamatelemetry.gpu.nvml.reader import NvmlReader
from llamatelemetry.gpu.reader import GpuDevice
from llamatelemetry.gpu.spans import SpanGpu, _energy_attributes, _engine_of, _server_engine
from llamatelemetry.otel.span_processors import EnrichingSpanProcessor
from tests.gpu.calls import (
    LLAMA_SERVER,
    LONG_ENOUGH_S,
    ORIGIN,
    SERVER_PID,
    call,
    pids_of,
    with_server,
)
from tests.gpu.conftest import Tracing
from tests.support import nvml
from tests.support.waiting import wait_for

IN_PROCESS = {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "huggingface"}
TRANSFORMERS = "llamatelemetry_instrumentation_transformers"


def test_span_gets_gpu_usage_during_its_time(driver_with, start_monitor):
    driver = driver_with(nvml.eight_with_nvswitch())
    tracing = Tracing(start_monitor())
    with tracing.tracer().start_as_current_span("work"):
        driver.change(3, power=600, temperature=71, memory_used=70 * nvml.GIB)
        time.sleep(0.3)
        driver.change(3, temperature=60, memory_used=10 * nvml.GIB)
        time.sleep(0.1)
    found = tracing.attributes("work")
    assert set(found) == {
        *("ids", "utilization", "utilization_peak", "memory_used", "power", "temperature"),
    }
    assert found["ids"] == tuple(nvml.uuid(i) for i in range(8))
    assert found["power"][2] == pytest.approx(300.5)
    assert 500 < found["power"][3] <= 600.1
    assert found["temperature"][3] == 71
    assert found["memory_used"][3] == 70 * nvml.GIB
    assert found["utilization"] == pytest.approx((0.4,) * 8)
    assert found["utilization_peak"] == (0.4,) * 8


def test_short_span_gets_the_last_reading(driver_with, start_monitor):
    driver_with(nvml.one_gpu())
    tracing = Tracing(start_monitor(interval_s=30.0))
    tracing.tracer().start_span("work").end()
    assert tracing.attributes("work")["power"] == (300.5,)


def test_span_outside_the_history_gets_nothing(driver_with, start_monitor):
    driver_with(nvml.one_gpu())
    tracing = Tracing(start_monitor())
    long_ago = time.time_ns() - 3600 * 10**9
    span = tracing.tracer().start_span("work", start_time=long_ago)
    span.end(long_ago + 10**9)
    assert tracing.attributes("work") == {}


def test_values_that_no_gpu_reports_are_absent(driver_with, start_monitor):
    driver_with({"start": 0, "devices": [{"uuid": nvml.uuid(0), "power": 50}]})
    tracing = Tracing(start_monitor())
    tracing.tracer().start_span("work").end()
    assert tracing.attributes("work") == {"ids": (nvml.uuid(0),), "power": (50.0,)}


def test_lost_gpu_is_not_in_the_arrays(driver_with, start_monitor):
    driver = driver_with(nvml.four_on_pcie())
    monitor = start_monitor()
    tracing = Tracing(monitor)
    driver.lose(1)
    wait_for(lambda: monitor.snapshot.lost)
    tracing.tracer().start_span("work").end()
    found = tracing.attributes("work")
    assert found["ids"] == tuple(nvml.uuid(i) for i in (0, 2, 3))
    assert len(found["power"]) == 3


def test_arrays_follow_visible_gpus_in_cuda_order(driver_with, start_monitor, monkeypatch):
    driver_with(nvml.four_on_pcie())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"2,{nvml.uuid(0)}")
    tracing = Tracing(start_monitor(reports_host=lambda: True))
    tracing.tracer().start_span("work").end()
    assert tracing.attributes("work")["ids"] == (nvml.uuid(2), nvml.uuid(0))


def test_mig_instance_has_memory_but_no_power(driver_with, start_monitor, monkeypatch):
    machine = nvml.with_mig()
    instance = machine["devices"][0]["mig"]["instances"][1]
    driver_with(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", instance["uuid"])
    tracing = Tracing(start_monitor())
    tracing.tracer().start_span("work").end()
    assert tracing.attributes("work") == {
        "ids": (instance["uuid"],),
        "memory_used": (2 * nvml.GIB,),
    }


def test_only_genai_skips_other_spans(driver_with, start_monitor):
    driver_with(nvml.one_gpu())
    tracing = Tracing(start_monitor(), only_genai=True)
    tracing.tracer().start_span("chat", attributes=LLAMA_SERVER).end()
    tracing.tracer().start_span("rerank", attributes={"gen_ai.provider.name": "vllm"}).end()
    tracing.tracer().start_span("work").end()
    assert "power" in tracing.attributes("chat")
    assert "power" in tracing.attributes("rerank")
    assert tracing.attributes("work") == {}


def test_enrichment_never_evicts_attributes_of_the_application(driver_with, start_monitor):
    driver_with(nvml.one_gpu())
    spans = SpanGpu(start_monitor(), only_genai=False)
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=4), shutdown_on_exit=False)
    provider.add_span_processor(
        EnrichingSpanProcessor(spans.started, spans.ending, lambda *_: pytest.fail("failed"))
    )
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("work", attributes={"a": 1, "b": 2, "c": 3}).end()
    (span,) = exporter.get_finished_spans()
    assert set(span.attributes) == {"a", "b", "c", "llamatelemetry.gpu.ids"}


def test_ended_span_accepts_no_more_attributes(driver_with, start_monitor, caplog):
    driver_with(nvml.one_gpu())
    tracing = Tracing(start_monitor())
    span = tracing.tracer().start_span("work")
    span.end()
    span.set_attribute("late", 1)
    assert "late" not in span.attributes
    assert "Setting attribute on ended span." in caplog.text


def test_failure_is_logged_and_span_is_exported(driver_with):
    reported = []

    def fail(*_):
        raise RuntimeError("broken")

    provider = TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(
        EnrichingSpanProcessor(fail, fail, lambda where, error: reported.append(where))
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("work").end()
    assert len(exporter.get_finished_spans()) == 1
    assert reported == ["registering the start of a span", "adding attributes to a span"]


def test_spans_do_not_call_the_driver(driver_with, start_monitor):
    driver = driver_with(with_server())
    tracing = Tracing(start_monitor(pids_of=pids_of))

    def request():
        for _ in range(20):
            tracing.tracer().start_span("chat", kind=SpanKind.CLIENT, attributes=LLAMA_SERVER).end()

    ours = [threading.Thread(target=request) for _ in range(4)]
    before = len(driver.calls())
    for each in ours:
        each.start()
    request()
    for each in ours:
        each.join()
    wait_for(lambda: len(driver.calls()) > before)
    callers = {call.thread for call in driver.calls()}
    assert callers.isdisjoint({threading.get_native_id(), *(each.native_id for each in ours)})
    assert len(callers) == 1


@pytest.mark.slow
@pytest.mark.clock
def test_slow_driver_does_not_delay_spans(driver_with, start_monitor):
    driver_with(nvml.slow(200))
    tracing = Tracing(start_monitor(interval_s=0.02))
    began = time.monotonic()
    for _ in range(100):
        tracing.tracer().start_span("chat", kind=SpanKind.CLIENT, attributes=LLAMA_SERVER).end()
    # One driver call takes 0.2 s.
    assert time.monotonic() - began < 0.2


@pytest.mark.clock
def test_call_to_local_server_has_energy_and_energy_per_token(driver_with, start_monitor):
    driver = driver_with(with_server(power=60, utilization={"gpu": 0, "memory": 0}))
    tracing = Tracing(start_monitor(pids_of=pids_of))
    time.sleep(0.2)  # the GPU is observed idle
    driver.change(power=[[0, 60], [time.time() - driver.machine["start"], 360]])
    driver.change(utilization={"gpu": 90, "memory": 50})
    began = time.time()
    found = call(tracing, LLAMA_SERVER)
    used_j = driver.energy_j() - driver.energy_j(at_s=began)
    assert found["energy"] == pytest.approx(used_j, rel=0.1)
    assert found["energy_per_output_token"] == pytest.approx(found["energy"] / 100)
    assert found["energy_above_idle"] == pytest.approx(found["energy"] * 300 / 360, rel=0.05)
    assert found["energy_attribution"] == "exclusive"


@pytest.mark.clock
def test_in_process_call_has_energy_when_process_is_on_the_gpu(driver_with, start_monitor):
    driver_with(nvml.one_gpu(processes=[{"pid": os.getpid(), "memory": 1}]))
    found = call(Tracing(start_monitor()), IN_PROCESS, scope=TRANSFORMERS, kind=SpanKind.INTERNAL)
    assert found["energy"] == pytest.approx(300.5 * LONG_ENOUGH_S, rel=0.1)


@pytest.mark.clock
def test_energy_counts_only_gpus_of_the_engine(driver_with, start_monitor):
    machine = nvml.four_on_pcie()
    for index in (1, 2):
        machine["devices"][index]["processes"] = [{"pid": SERVER_PID, "memory": 1}]
    driver_with(machine)
    found = call(Tracing(start_monitor(pids_of=pids_of)), LLAMA_SERVER)
    assert found["energy"] == pytest.approx(2 * 300.5 * LONG_ENOUGH_S, rel=0.1)


def test_managed_server_has_energy_at_any_address(driver_with, start_monitor):
    driver_with(with_server())
    origin = "http://192.0.2.7:8080"
    known_servers.describe(
        Server("192.0.2.7", 8080, origin), {"llamatelemetry.server.binary": "llama-server"}
    )
    tracing = Tracing(
        start_monitor(pids_of=lambda asked: {SERVER_PID} if asked == origin else set())
    )
    assert "energy" in call(tracing, {**LLAMA_SERVER, "server.address": "192.0.2.7"})


@pytest.mark.parametrize(
    ("energy", "present", "expected"),
    [
        (
            CallEnergy(12.0, 3.0, "exclusive"),
            {"gen_ai.usage.output_tokens": 4},
            {"energy": 12.0, "above_idle": 3.0, "per_output_token": 3.0},
        ),
        (CallEnergy(12.0, 0.0, "shared"), {}, {"energy": 12.0, "above_idle": 0.0}),
        (
            CallEnergy(12.0, None, "shared"),
            {"gen_ai.usage.output_tokens": 1},
            {"energy": 12.0, "per_output_token": 12.0},
        ),
        (CallEnergy(12.0, None, "shared"), {"gen_ai.usage.output_tokens": 0}, {"energy": 12.0}),
    ],
)
def test_energy_of_a_call_becomes_attributes(energy, present, expected):
    found = _energy_attributes(energy, present)
    assert found.pop("llamatelemetry.gpu.energy_attribution") == energy.attribution
    assert found.pop("llamatelemetry.gpu.energy") == expected.pop("energy")
    prefix = "llamatelemetry.gpu.energy_"
    assert {name.removeprefix(prefix): value for name, value in found.items()} == expected


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_managed_server_is_an_engine_of_this_machine(scheme):
    known_servers.describe(
        Server(f"{scheme}.invalid", 8443, f"{scheme}://{scheme}.invalid:8443"),
        {"llamatelemetry.server.binary": "llama-server"},
    )
    # The origin is only a key here, so the scheme does not matter.
    assert _server_engine(f"{scheme}.invalid", 8443) == f"http://{scheme}.invalid:8443"
    assert _server_engine(f"{scheme}.invalid", 8444) is None
    assert _server_engine("::1", 80) == "http://[::1]:80"


LOCAL = Server("127.0.0.1", 8080, ORIGIN)
CALLS = [
    (SpanKind.CLIENT, "test", "chat", LOCAL, ORIGIN),
    (SpanKind.CLIENT, "test", "chat", Server("127.0.0.1", None, "http://127.0.0.1"), None),
    (SpanKind.CLIENT, "test", "chat", Server("192.0.2.9", 8080, "http://192.0.2.9:8080"), None),
    (SpanKind.CLIENT, "test", "invoke_agent", LOCAL, None),
    (SpanKind.SERVER, "test", "chat", LOCAL, None),
    (SpanKind.INTERNAL, TRANSFORMERS, "chat", None, "in process"),
    (SpanKind.INTERNAL, "langchain", "chat", LOCAL, None),
]


@pytest.mark.parametrize(("kind", "scope", "operation", "server", "engine"), CALLS)
def test_call_belongs_to_an_engine_of_this_machine(kind, scope, operation, server, engine):
    attributes = {"gen_ai.operation.name": operation}
    if server is not None:
        attributes["server.address"] = server.address
    if server is not None and server.port is not None:
        attributes["server.port"] = server.port
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer(scope)
    assert _engine_of(tracer.start_span("call", kind=kind, attributes=attributes)) == engine


@pytest.mark.parametrize(("kind", "scope", "operation", "server", "engine"), CALLS)
def test_call_without_a_recorded_span_is_in_flight(kind, scope, operation, server, engine):
    monitor = GpuMonitor(NvmlReader())  # not started
    spans, span = SpanGpu(monitor, only_genai=False), NonRecordingSpan(INVALID_SPAN_CONTEXT)
    request = Request(operation, provider="llama_cpp", server=server)
    spans.on_dropped_span_start(span, request, kind, scope)
    assert monitor.ledger.engines_in_flight() == set()  # without a GPU
    device = GpuDevice(index=0, uuid=nvml.uuid(0))
    monitor.snapshot = Snapshot(devices=(device,), visible=(device,))
    spans.on_dropped_span_start(span, request, kind, scope)
    assert monitor.ledger.engines_in_flight() == ({engine} if engine else set())
    spans.on_dropped_span_end(span)
    assert monitor.ledger.engines_in_flight() == set()


CLOUD = {**LLAMA_SERVER, "server.address": "api.openai.com", "server.port": 443}


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        pytest.param(CLOUD, {}, id="cloud service"),
        pytest.param({**LLAMA_SERVER, "server.port": 9999}, {}, id="server not on a GPU"),
        pytest.param(
            {**LLAMA_SERVER, "gen_ai.operation.name": "invoke_agent"},
            {},
            id="operation without a model",
        ),
        pytest.param(
            IN_PROCESS, {"kind": SpanKind.INTERNAL, "scope": "langchain"}, id="span of a framework"
        ),
        pytest.param(LLAMA_SERVER, {"kind": SpanKind.SERVER}, id="server span"),
    ],
)
def test_other_calls_have_no_energy(driver_with, start_monitor, attributes, options):
    processes = [{"pid": SERVER_PID, "memory": 1}, {"pid": os.getpid(), "memory": 1}]
    driver_with(nvml.one_gpu(processes=processes))
    found = call(Tracing(start_monitor(pids_of=pids_of)), attributes, **options)
    assert [name for name in found if "energy" in name] == []
    assert "power" in found


def test_short_call_has_no_energy(driver_with, start_monitor):
    driver_with(with_server())
    found = call(Tracing(start_monitor(pids_of=pids_of, interval_s=1.0)), LLAMA_SERVER, seconds=0.7)
    assert [name for name in found if "energy" in name] == []


def test_nested_call_is_counted_once(driver_with, start_monitor):
    driver_with(with_server())
    tracing = Tracing(start_monitor(pids_of=pids_of))
    outer = tracing.tracer().start_span("outer", kind=SpanKind.CLIENT, attributes=LLAMA_SERVER)
    found = call(tracing, LLAMA_SERVER, context=set_span_in_context(outer))
    outer.end()
    assert "energy" not in found
    assert tracing.attributes("outer")["energy_attribution"] == "exclusive"


@pytest.mark.slow
@pytest.mark.clock
def test_shares_of_overlapping_calls_add_up_to_counter_within_one_percent(
    driver_with, start_monitor
):
    curve = [[0, 70], [1.1, 350], [1.9, 610], [2.6, 240], [3.4, 480], [4.3, 130], [5.2, 560]]
    driver = driver_with(with_server(power=curve, energy_step_ms=20))
    tracing = Tracing(start_monitor(pids_of=pids_of, interval_s=0.1))
    wait_for(lambda: time.time() - driver.machine["start"] > 0.9)
    threads = [
        threading.Thread(target=one_call, args=(tracing, f"call {n}", start_s, seconds))
        for n, (start_s, seconds) in enumerate(
            [(0, 2.2), (0.4, 1.6), (0.7, 3.4), (1.5, 1.9), (2, 3)]
        )
    ]
    began = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.time()
    found = [tracing.attributes(f"call {n}") for n in range(len(threads))]
    used_j = driver.energy_j(at_s=ended) - driver.energy_j(at_s=began)
    assert {each["energy_attribution"] for each in found} == {"shared"}
    assert sum(each["energy"] for each in found) == pytest.approx(used_j, rel=0.01)


def one_call(tracing: Tracing, name: str, start_s: float, seconds: float) -> None:
    time.sleep(start_s)
    span = tracing.tracer().start_span(name, kind=SpanKind.CLIENT, attributes=LLAMA_SERVER)
    time.sleep(seconds)
    span.end()


@pytest.mark.clock
def test_unsampled_call_still_gets_its_share(driver_with, start_monitor, monkeypatch):
    driver_with(with_server())
    monitor = start_monitor(pids_of=pids_of)
    tracing = Tracing(monitor)
    monkeypatch.setattr(DroppedSpans, "observer", SpanGpu(monitor, only_genai=False))
    dropped = Instrumenter(
        "test", "1", tracer_provider=TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    ).start(Request("chat", provider="llama_cpp", server=Server("127.0.0.1", 8080, ORIGIN)))
    found = call(tracing, LLAMA_SERVER)
    dropped.finish(Response())
    assert found["energy_attribution"] == "shared"
    assert found["energy"] == pytest.approx(300.5 * LONG_ENOUGH_S / 2, rel=0.15)
    assert monitor.ledger.engines_in_flight() == set()
