"""`deploy/`: the contents of its files, and the operator's init container without Docker.

The script that the Dockerfile calls creates the directory that the init container copies. Then a
Python without telemetry packages is started as by the operator: only variables configure it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamatelemetry.config import OPTIONS
from tests.support.model_server import model_server
from tests.support.otlp_receiver import http_receiver

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.rglob("*Dockerfile"))
MANIFESTS = sorted((DEPLOY / "kubernetes" / "operator").glob("*.yaml"))
MOUNT = "/otel-auto-instrumentation-python"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


class TestManifests:
    # From the operator's custom resource definition, v1alpha1: the fields of our manifest.
    INSTRUMENTATION = {  # noqa: RUF012 - not changed
        "exporter": {"endpoint"},
        "propagators": {"tracecontext", "baggage", "b3", "b3multi", "jaeger", "xray", "ottrace"},
        "python": {"image", "env", "volumeLimitSize", "resourceRequirements"},
    }

    def test_instrumentation_has_only_fields_of_the_operator_definition(self):
        (manifest,) = documents(DEPLOY / "kubernetes" / "operator" / "instrumentation.yaml")
        assert manifest["apiVersion"] == "opentelemetry.io/v1alpha1"
        assert manifest["kind"] == "Instrumentation"
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
        for name, value in manifest["spec"].items():
            assert set(value) <= self.INSTRUMENTATION[name]
        # The image has no gRPC.
        assert ":4318" in manifest["spec"]["exporter"]["endpoint"]

    def test_deployment_copies_files_and_sets_path_as_the_operator_does(self):
        (manifest,) = documents(DEPLOY / "kubernetes" / "operator" / "deployment.yaml")
        pod = manifest["spec"]["template"]["spec"]
        (init,), (container,) = pod["initContainers"], pod["containers"]
        assert init["command"] == ["cp", "-r", "/autoinstrumentation/.", MOUNT]
        (volume,) = pod["volumes"]
        for each in (init, container):
            (mount,) = each["volumeMounts"]
            assert (mount["name"], mount["mountPath"]) == (volume["name"], MOUNT)
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["PYTHONPATH"] == python_path(Path(MOUNT))

    @pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
    def test_manifests_contain_only_known_variables_with_valid_values(self, path):
        known = {each: option for option in OPTIONS.values() for each in variables_of(option)}
        found = variables_in(documents(path))
        assert found
        for name, value in found.items():
            # Kubernetes rejects numbers without quotes.
            assert isinstance(value, str)
            if name in known:
                known[name].parser.parse(value)
            else:
                assert name in {"PYTHONPATH", "OTEL_PYTHON_DISTRO"}


def variables_of(option) -> list[str]:
    return [each for each in (option.variable, *option.otel_variables) if each]


def variables_in(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(node, list):
        for each in node:
            found |= variables_in(each)
    elif isinstance(node, dict):
        found |= {each["name"]: each["value"] for each in node.get("env", ())}
        for value in node.values():
            found |= variables_in(value)
    return found


class TestDockerfiles:
    @pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
    def test_image_has_slim_base_and_does_not_run_as_root(self, path):
        lines = path.read_text().splitlines()
        bases = [line.split()[1] for line in lines if line.startswith("FROM")]
        assert all(re.search(r"-slim$|-alpine$|^busybox:", base) for base in bases)
        last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM")) :]
        assert "USER 10001:10001" in last_stage

    @pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
    def test_build_context_contains_all_copied_and_called_files(self, path):
        text = path.read_text()
        copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE)
        called = re.findall(r"/source/(\S+)", text)
        assert called
        allowed = [
            line[1:]
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        ]
        for each in [*copied, *called]:
            assert (ROOT / each).exists()
            assert each == "." or each.split("/")[0] in allowed
        for each in called:
            assert os.access(ROOT / each, os.X_OK)

    def test_wheels_script_builds_every_distribution(self):
        text = (DEPLOY / "wheels").read_text()
        sources = re.findall(r"\./(src/\w+)", text)
        assert sorted(sources) == sorted(
            str(path.parent.relative_to(ROOT)) for path in ROOT.glob("src/*/pyproject.toml")
        )


def python_path(folder: Path) -> str:
    """Return `PYTHONPATH` as the operator sets it."""
    return f"{folder}/opentelemetry/instrumentation/auto_instrumentation:{folder}"


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    """Return the build context: the files that `.dockerignore` does not exclude."""
    folder = tmp_path_factory.mktemp("context")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], folder / line[1:]
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, target)
    return folder


@pytest.fixture(scope="module")
def layout(context: Path, tmp_path_factory) -> Path:
    """Return the directory to which the init container has copied the files."""
    folder = tmp_path_factory.mktemp("image")
    # The scripts call `python3`.
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (
        [context / "deploy/wheels", folder / "wheels"],
        [
            context / "deploy/kubernetes/operator/layout",
            folder / "autoinstrumentation",
            folder / "wheels",
        ],
    ):
        subprocess.run(command, env=environ, check=True, timeout=300)
    mounted = folder / "mount"
    mounted.mkdir()
    subprocess.run(["cp", "-r", f"{folder}/autoinstrumentation/.", str(mounted)], check=True)
    return mounted


@pytest.fixture(scope="module")
def application(tmp_path_factory) -> Path:
    """Return an interpreter with openai and no other package."""
    folder = tmp_path_factory.mktemp("application")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "openai"], check=True, timeout=300)
    return python


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.needs("package-index")
class TestInitContainer:
    def test_directory_contains_only_packages_for_the_application(self, layout):
        names = {path.name for path in layout.iterdir() if not path.name.endswith(".dist-info")}
        assert "llamatelemetry" in names
        assert (
            layout / "opentelemetry/instrumentation/auto_instrumentation/sitecustomize.py"
        ).exists()
        # They would replace the application's own packages.
        assert not names & {
            "httpx",
            "httpx2",
            "openai",
            "rich",
            "typer",
            "grpc",
            "bin",
            "example.py",
        }
        size = sum(path.stat().st_size for path in layout.rglob("*") if path.is_file())
        assert size < 50 * 2**20  # the operator's volume has 200 MiB

    def test_variables_alone_instrument_an_application(self, layout, application):
        program = "import calls; calls.work()"
        with http_receiver() as received, model_server() as model:
            done = subprocess.run(
                [application, "-c", program],
                cwd=ROOT / "tests" / "processes",
                env={
                    "PATH": os.environ["PATH"],
                    "OPENAI_BASE_URL": model,
                    "OPENAI_API_KEY": "none",
                    "PYTHONPATH": python_path(layout),
                    # The variables of the operator, and those of the manifest.
                    "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
                    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                    "OTEL_TRACES_EXPORTER": "otlp",
                    "OTEL_METRICS_EXPORTER": "otlp",
                    "OTEL_LOGS_EXPORTER": "otlp",
                    "OTEL_SERVICE_NAME": "shop",
                    "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=shop-0",
                    "OTEL_PYTHON_DISTRO": "llamatelemetry",
                },
                capture_output=True,
                text=True,
                timeout=100,
            )
        assert (done.returncode, done.stderr) == (0, "")
        assert received.spans() == ["chat smol"] * 3
        assert "gen_ai.client.operation.duration" in received.metrics()
        resource = received.resources("traces")[0]
        assert resource["telemetry.distro.name"] == "llamatelemetry"
        assert resource["service.name"] == "shop"
        assert resource["k8s.pod.name"] == "shop-0"

    def test_packages_of_the_application_are_not_replaced(self, layout, application):
        program = "import openai, httpx2, pydantic; print(openai.__file__, httpx2.__file__)"
        done = subprocess.run(
            [application, "-c", program],
            env={"PYTHONPATH": python_path(layout), "OTEL_SDK_DISABLED": "true"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert str(layout) not in done.stdout
