"""Creation of an instrumenter from the arguments of a plugin or from the environment."""

from __future__ import annotations

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import Request, Response, plugin_instrumenter
from tests.support.recorder import Recorder


def test_plugin_instrumenter_uses_its_arguments_and_ignores_others(
    recorder: Recorder,
) -> None:
    arguments = {
        **recorder.providers,
        "config": LlamaTelemetryConfig(metric_names="latest"),
        "completion_hook": None,
        "skip_dep_check": True,
        "request_hook": print,
    }
    instrumenter = plugin_instrumenter("plugin", "1", arguments)
    assert instrumenter.config.metric_names == "latest"
    call = instrumenter.start(Request(operation="chat", provider="openai"))
    assert call is not None
    call.finish(Response())
    assert recorder.call().instrumentation_scope.name == "plugin"
    assert recorder.points("gen_ai.client.inference.duration")


def test_plugin_instrumenter_reads_environment_when_arguments_are_missing(monkeypatch) -> None:
    monkeypatch.setenv("LLAMATELEMETRY_METRIC_NAMES", "latest")
    assert plugin_instrumenter("plugin", "1", {}).config.metric_names == "latest"
