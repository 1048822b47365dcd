"""Build all five distributions and check them in environments that have only wheels.

An editable install puts all of `src/` on the path, so it does not show which packages a
distribution installs. Here each check has a new environment with the wheels just built. `make
wheels` and CI run this script. It needs the dependency group `build`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import Parser
from pathlib import Path

from _wheel_environment import (
    CORE,
    DISTRO,
    LLAMACPP,
    OPENAI,
    ROOT,
    SOURCES,
    TRANSFORMERS,
    CheckError,
    Environment,
    expect,
    only_file,
    run,
)

from llamatelemetry.llama import ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model

INSTRUMENTORS = {
    "llamatelemetry_openai": "llamatelemetry_instrumentation_openai:OpenAIInstrumentor",
    "llamatelemetry_llamacpp": "llamatelemetry_instrumentation_llamacpp:LlamaCppInstrumentor",
    "llamatelemetry_transformers": (
        "llamatelemetry_instrumentation_transformers:TransformersInstrumentor"
    ),
}
SAMPLERS = {
    f"llamatelemetry_{name}": f"llamatelemetry.distro:{name}"
    for name in ("ratio", "only_errors", "only_slow", "only_errors_or_slow")
}
ENTRY_POINTS = {
    "console_scripts": {"llamatelemetry": "llamatelemetry.__main__:main"},
    "opentelemetry_distro": {"llamatelemetry": "llamatelemetry.distro:LlamaTelemetryDistro"},
    "opentelemetry_configurator": {
        "llamatelemetry": "llamatelemetry.distro:LlamaTelemetryConfigurator"
    },
    "opentelemetry_instrumentor": INSTRUMENTORS,
    "opentelemetry_traces_exporter": {
        "llamatelemetry_file": "llamatelemetry.otel.export.file_exporter:FileSpanExporter"
    },
    "opentelemetry_metrics_exporter": {
        "llamatelemetry_file": "llamatelemetry.otel.export.file_exporter:FileMetricExporter",
        "llamatelemetry_prometheus": "llamatelemetry.otel.export.prometheus_reader:PrometheusReader",
    },
    "opentelemetry_logs_exporter": {
        "llamatelemetry_file": "llamatelemetry.otel.export.file_exporter:FileLogExporter"
    },
    "opentelemetry_resource_detector": {
        "llamatelemetry_gpu": "llamatelemetry.gpu.detector:GpuResourceDetector"
    },
    "opentelemetry_traces_sampler": SAMPLERS,
    "opentelemetry_sampler": SAMPLERS,
}


def build(dist: Path, scratch: Path) -> None:
    """Build every sdist and wheel. Check that a wheel built from the sdist has the same files."""
    for name, source in SOURCES.items():
        tool = [sys.executable, "-m", "build", "--no-isolation"]
        run([*tool, "--sdist", "--wheel", "--outdir", dist, source])
        stem = name.replace("-", "_")
        unpacked = scratch / stem
        # The archive is trusted. The argument `filter` would need Python 3.11.4.
        shutil.unpack_archive(only_file(dist, f"{stem}-[0-9]*.tar.gz"), unpacked)
        run([*tool, "--wheel", "--outdir", unpacked, only_file(unpacked, f"{stem}-*")])
        rebuilt = only_file(unpacked, "*.whl")
        expect(_files(rebuilt), _files(dist / rebuilt.name), f"{rebuilt.name} built from its sdist")
    run([sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir())])


def check_contents(dist: Path) -> None:
    """Check that each wheel has only its package, with license, readme and type marker."""
    versions: set[str | None] = set()
    for name, source in SOURCES.items():
        wheel = only_file(dist, f"{name.replace('-', '_')}-[0-9]*.whl")
        contents = _files(wheel)
        info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
        package = set() if name == DISTRO else {source.name}
        expect(
            {path.split("/")[0] for path in contents},
            {info} | package,
            f"top-level names in {wheel.name}",
        )
        wanted = {f"{info}/licenses/LICENSE"} | {f"{each}/py.typed" for each in package}
        expect(wanted - contents, set(), f"missing from {wheel.name}")
        metadata = _metadata(wheel, info)
        expect(metadata["License-Expression"], "Apache-2.0", f"license of {name}")
        expect(metadata["Description-Content-Type"], "text/markdown", f"readme of {name}")
        versions.add(metadata["Version"])
        check_pins(name, metadata["Version"], metadata.get_all("Requires-Dist") or [])
    expect(len(versions), 1, f"number of versions in {versions}")


def check_pins(name: str, version: str, requirements: list[str]) -> None:
    """Check that a distribution requires other distributions of llamatelemetry in its own version."""
    ours = [each for each in requirements if each.startswith(DISTRO)]
    pins = [each.partition(";")[0].strip() for each in ours]  # without `extra == ...`
    loose = [each for each in pins if not each.endswith(f"=={version}")]
    expect(loose, [], f"requirements of {name} on llamatelemetry without =={version}")
    expect(bool(ours), name != CORE, f"whether {name} depends on llamatelemetry")


def _files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path, info: str) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{info}/METADATA").decode())


IMPORT_TAKES_NO_ACTION = """
import os, sys, threading
environment, modules = dict(os.environ), set(sys.modules)
import llamatelemetry
new = set(sys.modules) - modules
heavy = ("opentelemetry", "wrapt", "openai", "transformers", "torch", "httpx", "httpx2",
         "requests", "aiohttp", "urllib3", "pynvml", "graphistry", "pandas", "rich", "typer",
         "xllamacpp", "grpc")
problems = [name for name in sorted(new) if name.split(".")[0] in heavy]
problems += ["environment"] if dict(os.environ) != environment else []
problems += [str(thread) for thread in threading.enumerate()[1:]]
problems += os.listdir()
problems
"""


SKIPPED_LIBRARIES = """
import logging
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append((record.levelname, record.getMessage()))
logger = logging.getLogger("opentelemetry.instrumentation.auto_instrumentation._load")
logger.setLevel(logging.DEBUG)
logger.addHandler(Keep())
from opentelemetry.instrumentation.auto_instrumentation import initialize
initialize()
{(level, text.split()[0]) for level, text in records if "no installed version" in text}
"""


# Decimal megabytes of files, as `du --apparent-size` counts them, compiled modules included.
MAX_BASE_MB = 90
# Calls that need an extra. Their errors name the command that installs it.
NOT_IN_BASE = {
    *("benchmark compare", "benchmark to_dataframe", "trace graph to_dataframes"),
    *("topology to_dataframe", "ServerManager", "TransformersBackend", "NCCLGroup"),
    "bench --compare",
}


def check_base_install(environment: Environment) -> None:
    """Check the size of the base install, and run every call of the contract in it."""
    sizes = environment.sizes_mb()
    largest = sorted(sizes, key=lambda name: -sizes[name])[:8]
    listed = ", ".join(f"{name} {sizes[name]:.1f}" for name in largest)
    found_mb = f"{sum(sizes.values()):.1f} MB, of which {listed}"
    print(f"  size of the base install: {found_mb}")
    if sum(sizes.values()) > MAX_BASE_MB:
        raise CheckError(f"the base install must have at most {MAX_BASE_MB} MB, got {found_mb}")
    config = ServerConfig(find_demo_model(), port=0, n_ctx=2048, n_parallel=2, threads=1)
    with ServerManager(config, binary="embedded") as server:
        found = environment.contract_calls(server.url)
    outcomes = {
        **found["calls"],
        **{
            name: "ok" if done["status"] == 0 else done["out"] + done["err"]
            for name, done in found["commands"].items()
        },
    }
    failed = {name: outcome for name, outcome in outcomes.items() if outcome != "ok"}
    expect(set(failed), NOT_IN_BASE, f"calls that fail in the base install: {failed}")
    without_command = {name: error for name, error in failed.items() if "pip install" not in error}
    expect(without_command, {}, "errors without the command that installs the package")


def check_whole_product(environment: Environment) -> None:
    """Check `pip install llamatelemetry`: size, calls, entry points, import, instrumentors."""
    environment.install(DISTRO)
    check_base_install(environment)
    expect(environment.entry_points(*ENTRY_POINTS), ENTRY_POINTS, "entry points")
    ours = {name for name in environment.installed() if name.startswith(DISTRO)}
    expect(ours, set(SOURCES), "distributions of llamatelemetry")
    expect(environment.evaluate(IMPORT_TAKES_NO_ACTION), [], "import llamatelemetry")
    # The OTLP exporter installs requests, which is enough for the plugin for inference servers.
    llamacpp = {"llamatelemetry_llamacpp"}
    expect(
        environment.active_instrumentors(),
        llamacpp,
        "active instrumentors without openai and transformers",
    )
    skipped = {("DEBUG", "llamatelemetry_openai"), ("DEBUG", "llamatelemetry_transformers")}
    expect(environment.evaluate(SKIPPED_LIBRARIES), skipped, "log messages about missing libraries")
    environment.install("openai")
    both = llamacpp | {"llamatelemetry_openai"}
    expect(environment.active_instrumentors(), both, "active instrumentors without transformers")
    # The loader reads only the metadata of transformers, so its dependencies are not needed.
    environment.install("--no-deps", "transformers")
    expect(
        environment.active_instrumentors(),
        set(INSTRUMENTORS),
        "active instrumentors with all libraries",
    )
    disabled = environment.active_instrumentors(OTEL_SDK_DISABLED="true")
    expect(disabled, set(), "active instrumentors with OTEL_SDK_DISABLED")


def check_plugin_alone(environment: Environment) -> None:
    """Check that one plugin installs only the core and the API, and works in OpenTelemetry's distro."""
    environment.install(OPENAI)
    installed = environment.installed()
    ours = {name for name in installed if name.startswith(DISTRO)}
    expect(ours, {CORE, OPENAI}, "distributions of llamatelemetry with one plugin")
    unwanted = {"opentelemetry-sdk", "opentelemetry-distro", "rich", "typer", "nvidia-ml-py"}
    expect(installed & unwanted, set(), "unwanted packages with one plugin")
    groups = {group: {} for group in ENTRY_POINTS} | {
        "opentelemetry_instrumentor": {
            "llamatelemetry_openai": INSTRUMENTORS["llamatelemetry_openai"]
        }
    }
    expect(environment.entry_points(*ENTRY_POINTS), groups, "entry points of one plugin")
    expect(environment.evaluate(IMPORT_TAKES_NO_ACTION), [], "import llamatelemetry")
    imported = environment.evaluate(
        "from llamatelemetry_instrumentation_openai import OpenAIInstrumentor\nOpenAIInstrumentor.__name__"
    )
    expect(imported, "OpenAIInstrumentor", "importing the plugin without the SDK")
    environment.install("opentelemetry-distro", "openai")
    active = environment.active_instrumentors()
    expect(active, {"llamatelemetry_openai"}, "active instrumentors in opentelemetry-distro")


def check_other_plugins_alone(environment: Environment) -> None:
    """Check that the other plugins install only the core, and import without SDK and library."""
    environment.install(LLAMACPP, TRANSFORMERS)
    installed = environment.installed()
    ours = {name for name in installed if name.startswith(DISTRO)}
    expect(ours, {CORE, LLAMACPP, TRANSFORMERS}, "distributions of llamatelemetry with two plugins")
    expect("opentelemetry-sdk" in installed, False, "whether the SDK is installed with two plugins")
    instrumentors = {
        name: value for name, value in INSTRUMENTORS.items() if name != "llamatelemetry_openai"
    }
    found = environment.entry_points("opentelemetry_instrumentor")
    expect(found, {"opentelemetry_instrumentor": instrumentors}, "entry points of two plugins")
    loaded = environment.evaluate(
        "from importlib.metadata import entry_points\n"
        "sorted(p.load().__name__ for p in entry_points(group='opentelemetry_instrumentor'))"
    )
    expect(
        loaded,
        ["LlamaCppInstrumentor", "TransformersInstrumentor"],
        "instrumentors that load without the SDK",
    )
    active = environment.evaluate(
        "from importlib.metadata import entry_points\n"
        "ours = [p.load()() for p in entry_points(group='opentelemetry_instrumentor')]\n"
        "[(each.instrument(), each.is_instrumented_by_opentelemetry)[1] for each in ours]"
    )
    expect(active, [False, False], "whether plugins are active without their libraries")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{what} ...", flush=True)
    yield
    print(f"  ok, {time.monotonic() - started:.1f} s", flush=True)


def check_all(scratch: Path) -> None:
    """Build the distributions, then run each check in its own environment."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with _timed("build wheels and sdists, and wheels from the sdists"):
        build(dist, scratch)
    with _timed("contents and metadata"):
        check_contents(dist)
    checks: list[Callable[[Environment], None]] = [
        check_plugin_alone,
        check_other_plugins_alone,
        check_whole_product,
    ]
    for check in checks:
        with _timed((check.__doc__ or check.__name__).splitlines()[0]):
            check(Environment(scratch / check.__name__, dist))


def main() -> int:
    """Run all checks. Return 0 if they pass; otherwise print the failure and return 1."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            check_all(Path(scratch))
    except CheckError as error:
        print(f"  FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
