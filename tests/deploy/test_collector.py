"""The configurations of the OpenTelemetry Collector and of Compose.

The Collector is in no package registry, so its fields are checked against lists from its
documentation. `make deploy-check OTELCOL=...` lets the real Collector validate and run them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIGURATIONS = sorted(
    path for path in (DEPLOY / "collector").glob("*.yaml") if path.name != "kustomization.yaml"
)
by_file = pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)

_CLIENT = {"endpoint", "tls", "retry_on_failure", "sending_queue", "compression", "headers"}
# Documented fields by kind and type of component.
FIELDS = {
    "extensions": {
        "health_check": {"endpoint", "path"},
        "file_storage": {"directory", "timeout", "create_directory", "compaction"},
    },
    "receivers": {"otlp": {"protocols"}},
    "processors": {
        "memory_limiter": {
            *("check_interval", "limit_mib", "spike_limit_mib"),
            *("limit_percentage", "spike_limit_percentage"),
        },
        "batch": {"send_batch_size", "send_batch_max_size", "timeout"},
        "redaction": {
            *("allow_all_keys", "allowed_keys", "ignored_keys", "blocked_key_patterns"),
            *("blocked_values", "allowed_values", "summary"),
        },
        "filter": {"error_mode", "traces", "metrics", "logs"},
        "tail_sampling": {
            *("decision_wait", "num_traces", "expected_new_traces_per_sec", "policies"),
            "decision_cache",
        },
    },
    "connectors": {
        "forward": set(),
        "spanmetrics": {
            *("histogram", "dimensions", "resource_metrics_key_attributes", "exemplars"),
            *("metrics_flush_interval", "metrics_expiration", "namespace"),
        },
    },
    "exporters": {
        "otlp": _CLIENT,
        "loadbalancing": {
            *("routing_key", "resolver", "protocol", "retry_on_failure", "sending_queue"),
        },
        "prometheus": {
            *("endpoint", "enable_open_metrics", "metric_expiration", "const_labels"),
            *("resource_to_telemetry_conversion", "add_metric_suffixes"),
        },
        "debug": {"verbosity"},
    },
}
POLICIES = {"status_code": {"status_codes"}, "latency": {"threshold_ms"}}
POLICIES["probabilistic"] = {"sampling_percentage"}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@by_file
def test_components_have_documented_fields(path: Path):
    settings = load(path)
    assert settings.keys() == {*FIELDS, "service"} - ({"connectors"} - settings.keys())
    for kind, types in FIELDS.items():
        for name, fields in settings.get(kind, {}).items():
            assert set(fields or ()) <= types[name.partition("/")[0]], name


@by_file
def test_pipelines_use_every_component_and_no_other(path: Path):
    settings = load(path)
    pipelines = settings["service"]["pipelines"]
    used = {kind: set() for kind in ("receivers", "processors", "exporters")}
    for pipeline in pipelines.values():
        for kind, names in used.items():
            names.update(pipeline.get(kind, ()))
    connectors = set(settings.get("connectors", ()))
    assert used["receivers"] - connectors == set(settings["receivers"])
    assert used["processors"] == set(settings["processors"])
    assert used["exporters"] - connectors == set(settings["exporters"])
    # A connector is the exporter of one pipeline and the receiver of another.
    assert used["receivers"] & used["exporters"] == connectors
    assert set(settings["service"]["extensions"]) == set(settings["extensions"])


@by_file
def test_processors_have_their_order(path: Path):
    """Memory limiter first where data enters; sampling before batching; batch before the network."""
    settings = load(path)
    for name, pipeline in settings["service"]["pipelines"].items():
        processors = pipeline["processors"]
        if "otlp" in pipeline["receivers"]:
            assert processors[0] == "memory_limiter", name
        leaves = {"loadbalancing", "otlp", "prometheus"}
        if any(each.partition("/")[0] in leaves for each in pipeline["exporters"]):
            assert processors[-1] == "batch", name
        if "tail_sampling" in processors:
            assert processors.index("tail_sampling") < processors.index("batch")


@by_file
def test_network_exporters_retry_with_queue_on_disk(path: Path):
    settings = load(path)
    for name, exporter in settings["exporters"].items():
        if name.partition("/")[0] in ("otlp", "loadbalancing"):
            assert exporter["retry_on_failure"]["enabled"], name
            assert exporter["sending_queue"]["storage"] in settings["extensions"]


def test_tail_sampling_keeps_errors_slow_traces_and_a_share():
    policies = load(DEPLOY / "collector" / "gateway.yaml")["processors"]["tail_sampling"][
        "policies"
    ]
    assert {policy["type"] for policy in policies} == set(POLICIES)
    for policy in policies:
        assert policy[policy["type"]].keys() == POLICIES[policy["type"]]


def test_agents_send_trace_and_process_to_one_gateway():
    exporters = load(DEPLOY / "collector" / "agent.yaml")["exporters"]
    assert exporters["loadbalancing/traces"]["routing_key"] == "traceID"
    assert exporters["loadbalancing/metrics"]["routing_key"] == "resource"


class TestCompose:
    FOLDER = DEPLOY / "compose"

    def test_file_matches_schema_of_compose_files(self):
        pytest.importorskip("check_jsonschema")
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
        path = self.FOLDER / "compose.yaml"
        done = subprocess.run([*command, "vendor.compose-spec", path], capture_output=True)
        assert done.returncode == 0, done.stdout.decode()

    def test_mounted_and_built_files_exist(self):
        for service in load(self.FOLDER / "compose.yaml")["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert not source.startswith(".") or (self.FOLDER / source).exists(), source
            if build := service.get("build"):
                assert (self.FOLDER / build["context"] / build["dockerfile"]).exists()

    def test_volumes_are_named_and_used(self):
        settings = load(self.FOLDER / "compose.yaml")
        used = {
            volume.partition(":")[0]
            for service in settings["services"].values()
            for volume in service.get("volumes", ())
        }
        assert {name for name in used if not name.startswith(".")} == set(settings["volumes"])

    def test_images_are_pinned_ports_are_local_and_services_limited(self):
        text = (self.FOLDER / "compose.yaml").read_text()
        assert "admin:admin" not in text
        assert "${GRAFANA_PASSWORD:?" in text
        for name, service in load(self.FOLDER / "compose.yaml")["services"].items():
            if image := service.get("image"):
                assert image.rpartition(":")[2][0].isdigit() or image.rpartition(":")[2][0] == "v"
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
            assert "mem_limit" in service or name == "vllm"

    @pytest.mark.needs("prometheus")
    def test_prometheus_accepts_its_configuration(self):
        command = ["promtool", "check", "config", "--syntax-only"]
        subprocess.run([*command, self.FOLDER / "prometheus.yaml"], check=True, capture_output=True)

    def test_data_source_of_exemplars_and_links_is_provisioned(self):
        sources = load(self.FOLDER / "grafana" / "datasources.yaml")["datasources"]
        uids = {each["uid"] for each in sources}
        destinations = sources[0]["jsonData"]["exemplarTraceIdDestinations"]
        assert {each["datasourceUid"] for each in destinations} <= uids
        for path in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
            links = json.dumps(json.loads(path.read_text())["links"])
            assert "tempo" not in links or "tempo" in uids
