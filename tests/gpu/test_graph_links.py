"""The trace graph shows how its GPUs are connected."""

from __future__ import annotations

import json

import pytest

from tests.support import nvml
from tests.support.nvml import Driver, run_python

PROGRAM = """
import json
import llamatelemetry
from opentelemetry import trace
from opentelemetry.trace import SpanKind

llamatelemetry.init(enable_trace_graphs=True, exporter="none", gpu_enrichment=False)
trace.get_tracer("t").start_span("chat m", kind=SpanKind.CLIENT, attributes={
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
    "llamatelemetry.gpu.energy": 1.0, "llamatelemetry.gpu.ids": json.loads(GPUS),
}).end()
graph = llamatelemetry.trace_graph()
print(json.dumps([[e.source, e.target, e.kind] for e in graph.edges if e.kind != "calls"]))
llamatelemetry.shutdown()
"""


def edges(machine: dict, tmp_path, ids: list[str]) -> list[list[str]]:
    code = f"GPUS = {json.dumps(ids)!r}\n" + PROGRAM
    return json.loads(run_python(code, Driver(tmp_path, machine)))


@pytest.mark.parametrize(
    ("machine", "kind"),
    [(nvml.eight_with_nvswitch(), "NVLink"), (nvml.four_on_pcie(), "PCIe")],
    ids=["nvswitch", "pcie"],
)
def test_trace_graph_links_gpus_that_served_a_call(tmp_path, machine, kind) -> None:
    first, second = nvml.uuid(0), nvml.uuid(1)
    found = edges(machine, tmp_path, [first, second, "GPU-unknown"])
    assert found == [
        ["model:m", f"gpu:{first}", "runs on"],
        ["model:m", f"gpu:{second}", "runs on"],
        ["model:m", "gpu:GPU-unknown", "runs on"],
        [f"gpu:{first}", f"gpu:{second}", kind],
    ]
