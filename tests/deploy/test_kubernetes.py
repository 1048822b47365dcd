"""The Kubernetes manifests: schemas, references between files, and hardening.

Built-in kinds are validated against the JSON schemas of Kubernetes, offline. For the kinds of the
Prometheus Operator, whose schemas no package has, the fields that the manifests use are listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate")

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
FILES = sorted(KUBERNETES.rglob("*.yaml"))

# Fields of custom resources, from their definitions: `*` is a list.
CUSTOM = {
    "ServiceMonitor": {
        "selector": {"matchLabels": {}},
        "endpoints": {"*": {"port": {}, "interval": {}, "honorLabels": {}}},
    },
    "PrometheusRule": {
        "groups": {
            "*": {
                "name": {},
                "interval": {},
                "rules": {
                    "*": {
                        key: {}
                        for key in ("record", "alert", "expr", "for", "labels", "annotations")
                    }
                },
            }
        }
    },
}
OTHERS = {"Kustomization", "Instrumentation"}  # `TestManifests` has the fields of Instrumentation


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


RESOURCES = [(path, each) for path in FILES for each in documents(path)]
NAMES = [f"{path.name}: {each['kind']}" for path, each in RESOURCES]
WORKLOADS = [
    each for _, each in RESOURCES if each["kind"] in ("DaemonSet", "Deployment", "StatefulSet")
]


@pytest.mark.parametrize("version", VERSIONS)
def test_built_in_kinds_match_schemas_of_kubernetes(version: str):
    for _, resource in RESOURCES:
        if resource["kind"] not in {*CUSTOM, *OTHERS}:
            kubernetes_validate.validate(resource, version, strict=True)


def test_schemas_reject_unknown_field():
    wrong = {**documents(KUBERNETES / "namespace.yaml")[0], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(("path", "resource"), RESOURCES, ids=NAMES)
def test_custom_kinds_have_known_fields_only(path: Path, resource: dict[str, Any]):
    if fields := CUSTOM.get(resource["kind"]):
        assert resource["apiVersion"] == "monitoring.coreos.com/v1"
        check(resource["spec"], fields, path.name)


def check(value: Any, fields: dict[str, Any], place: str) -> None:
    if isinstance(value, list):
        for each in value:
            check(each, fields["*"], place)
    elif isinstance(value, dict) and fields:
        assert set(value) <= set(fields), place
        for name, each in value.items():
            check(each, fields[name], f"{place}.{name}")


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("kustomization.yaml")), ids=str)
def test_kustomization_names_existing_files_of_its_own_folder(path: Path):
    """Kustomize reads files of its own directory only, but bases from anywhere."""
    (settings,) = documents(path)
    assert settings.keys() <= {
        *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions")
    }
    for name in settings.get("resources", ()):
        target = path.parent / name
        assert target.is_file() or (target / "kustomization.yaml").is_file(), name
    for generator in settings.get("configMapGenerator", ()):
        for name in generator["files"]:
            file = path.parent / name.rpartition("=")[2]
            assert file.is_file()
            assert file.resolve().is_relative_to(path.parent)
            # A ConfigMap has at most 1 MiB.
            assert file.stat().st_size < 2**20


def test_every_dashboard_is_in_a_config_map():
    (settings,) = documents(DEPLOY / "grafana" / "kustomization.yaml")
    named = {file for each in settings["configMapGenerator"] for file in each["files"]}
    assert named == {f"dashboards/{path.name}" for path in (DEPLOY / "grafana").rglob("*.json")}


def test_config_maps_of_pods_are_generated():
    (settings,) = documents(DEPLOY / "collector" / "kustomization.yaml")
    generated = {each["name"] for each in settings["configMapGenerator"]}
    used = {
        volume["configMap"]["name"]
        for each in WORKLOADS
        for volume in each["spec"]["template"]["spec"].get("volumes", ())
        if "configMap" in volume
    }
    assert used == generated


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])
def test_pods_are_restricted_and_limited(workload: dict[str, Any]):
    if workload["metadata"]["name"] == "my-app":
        return  # the user's own
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "memory" in container["resources"]["limits"]
        assert {"livenessProbe", "readinessProbe"} <= container.keys()
        name, _, tag = container["image"].rpartition(":")
        assert name
        assert tag != "latest"


def test_instrumented_pods_of_any_namespace_send_to_the_agent():
    (instrumentation,) = documents(KUBERNETES / "operator" / "instrumentation.yaml")
    (deployment,) = documents(KUBERNETES / "operator" / "deployment.yaml")
    (settings,) = documents(KUBERNETES / "kustomization.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    _, service = documents(KUBERNETES / "agent.yaml")
    expected = f"http://{service['metadata']['name']}.{settings['namespace']}:4318"
    assert instrumentation["spec"]["exporter"]["endpoint"] == expected
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == expected


def test_traces_are_sampled_once():
    gateway = yaml.safe_load((DEPLOY / "collector" / "gateway.yaml").read_text())
    assert "tail_sampling" in gateway["processors"]
    (instrumentation,) = documents(KUBERNETES / "operator" / "instrumentation.yaml")
    assert "sampler" not in instrumentation["spec"]
    variables = {each["name"] for each in instrumentation["spec"]["python"]["env"]}
    assert not variables & {"LLAMATELEMETRY_SAMPLING", "OTEL_TRACES_SAMPLER"}


def test_user_of_vllm_has_a_name_and_a_writable_home():
    """Its image has no user with this id, and the root directory is read-only."""
    (pod,) = (
        each["spec"]["template"]["spec"] for each in WORKLOADS if each["metadata"]["name"] == "vllm"
    )
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["USER"]
    mounts = [Path(each["mountPath"]) for each in container["volumeMounts"]]
    assert any(Path(variables["HOME"]).is_relative_to(mount) for mount in mounts)


def test_services_and_monitors_select_existing_ports():
    labels = {each["spec"]["template"]["metadata"]["labels"]["app"]: each for each in WORKLOADS}
    services = {
        each["metadata"]["name"]: each for _, each in RESOURCES if each["kind"] == "Service"
    }
    for service in services.values():
        pod = labels[service["spec"]["selector"]["app"]]["spec"]["template"]["spec"]
        ports = {port["name"] for each in pod["containers"] for port in each.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for _, monitor in RESOURCES:
        if monitor["kind"] == "ServiceMonitor":
            service = services[monitor["spec"]["selector"]["matchLabels"]["app"]]
            ports = {port["name"] for port in service["spec"]["ports"]}
            assert {each["port"] for each in monitor["spec"]["endpoints"]} <= ports
