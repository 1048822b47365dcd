"""Builds all five distributions and tries them where only wheels are installed.

An editable install puts all of `src/` on the path, so it cannot show what a distribution brings
along. Here each check runs in a fresh environment: our five come from the wheels just built,
everything else from the package index. Run by `make wheels` and by CI; needs the `build` group.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, cast

from llamatelemetry.llama import ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model

ROOT = Path(__file__).parents[1]
OPENAI = "llamatelemetry-instrumentation-openai"
LLAMACPP = "llamatelemetry-instrumentation-llamacpp"
TRANSFORMERS = "llamatelemetry-instrumentation-transformers"
PLUGINS = (OPENAI, LLAMACPP, TRANSFORMERS)
CORE = "llamatelemetry-core"
DISTRO = "llamatelemetry"
SOURCES = {DISTRO: ROOT, CORE: ROOT / "src/llamatelemetry"} | {
    plugin: ROOT / "src" / plugin.replace("-", "_") for plugin in PLUGINS
}

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
        "llamatelemetry_file": "llamatelemetry.otel.export.file_exporter:FileMetricExporter"
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


class CheckError(Exception):
    """What was wanted and what was there instead."""


def expect(actual: object, wanted: object, what: str) -> None:
    """Compare, and say all three when they differ."""
    if actual == wanted:
        return
    if isinstance(actual, set) and isinstance(wanted, set):
        raise CheckError(f"{what}\n  missing {wanted - actual}\n  not wanted {actual - wanted}")
    raise CheckError(f"{what}\n  wanted {wanted}\n  found  {actual}")


def run(command: list[str | Path], *, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command in an environment without telemetry settings; return what it printed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_", "OPENAI_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,  # the message below shows what it printed
    )
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise CheckError(f"exit status {done.returncode} of: {shown}\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- building


def build(dist: Path, scratch: Path) -> None:
    """Build every sdist and wheel, and see that a wheel made from the sdist is the same."""
    for name, source in SOURCES.items():
        tool = [sys.executable, "-m", "build", "--no-isolation"]
        run([*tool, "--sdist", "--wheel", "--outdir", dist, source])
        stem = name.replace("-", "_")
        unpacked = scratch / stem
        # Our own archive; `filter` would need Python 3.11.4.
        shutil.unpack_archive(_only(dist, f"{stem}-[0-9]*.tar.gz"), unpacked)
        run([*tool, "--wheel", "--outdir", unpacked, _only(unpacked, f"{stem}-*")])
        rebuilt = _only(unpacked, "*.whl")
        expect(_files(rebuilt), _files(dist / rebuilt.name), f"{rebuilt.name} made from its sdist")
    run([sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir())])


def check_contents(dist: Path) -> None:
    """Each wheel holds its package and nothing else, with license, readme and type marker."""
    versions: set[str | None] = set()
    for name, source in SOURCES.items():
        wheel = _only(dist, f"{name.replace('-', '_')}-[0-9]*.whl")
        contents = _files(wheel)
        info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
        package = set() if name == DISTRO else {source.name}
        expect({path.split("/")[0] for path in contents}, {info} | package, f"tops of {wheel.name}")
        wanted = {f"{info}/licenses/LICENSE"} | {f"{each}/py.typed" for each in package}
        expect(wanted - contents, set(), f"missing from {wheel.name}")
        metadata = _metadata(wheel, info)
        expect(metadata["License-Expression"], "Apache-2.0", f"license of {name}")
        expect(metadata["Description-Content-Type"], "text/markdown", f"readme of {name}")
        versions.add(metadata["Version"])
        check_pins(name, metadata["Version"], metadata.get_all("Requires-Dist") or [])
    expect(len(versions), 1, f"one version for all: {versions}")


def check_pins(name: str, version: str, requirements: list[str]) -> None:
    """Whatever of ours a distribution needs, it needs in its own version."""
    ours = [each for each in requirements if each.startswith(DISTRO)]
    pins = [each.partition(";")[0].strip() for each in ours]  # without `extra == ...`
    loose = [each for each in pins if not each.endswith(f"=={version}")]
    expect(loose, [], f"requirements of {name} on ours without =={version}")
    expect(bool(ours), name != CORE, f"{name} depends on ours")


def _files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path, info: str) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{info}/METADATA").decode())


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckError(f"{pattern} in {folder}: wanted one file, found {found}")
    return found[0]


# ---- environments made from the wheels


class Environment:
    """A fresh virtual environment whose llamatelemetry packages are the wheels just built.

    Everything else has the version of constraints.txt.
    """

    def __init__(self, path: Path, dist: Path) -> None:
        venv.create(path, with_pip=False)
        self.python = path / "bin/python"
        self._bin = path / "bin"
        self._workdir = path / "work"
        self._workdir.mkdir()
        self._constraints = path / "constraints.txt"
        wheels = {name: _only(dist, f"{name.replace('-', '_')}-[0-9]*.whl") for name in SOURCES}
        # A file per name, so that no index can answer for one of ours.
        lines = [f"{name} @ {wheel.as_uri()}" for name, wheel in wheels.items()]
        self._constraints.write_text("\n".join(lines))

    def install(self, *requirements: str) -> None:
        """Install with the pip of the environment this script runs in."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        locked = ["--constraint", self._constraints, "--constraint", ROOT / "constraints.txt"]
        run([*pip, "install", "--quiet", *locked, *requirements])

    def evaluate(self, program: str, *, instrumented: bool = False, **environment: str) -> object:
        """Run a program and return the value of its last line, an expression."""
        *lines, last = program.strip().splitlines()
        source = "\n".join([*lines, f"print(repr({last}))"])
        # No exporter is to look for a collector.
        settings = {f"OTEL_{kind}_EXPORTER": "none" for kind in ("TRACES", "METRICS", "LOGS")}
        settings["PATH"] = f"{self._bin}:{os.environ['PATH']}"
        start = [self._bin / "opentelemetry-instrument"] if instrumented else []
        command = [*start, self.python, "-c", source]
        printed = run(command, cwd=self._workdir, **settings | environment)
        return eval(printed)  # noqa: S307 - the repr that our own program above printed

    def installed(self) -> set[str]:
        """The names of all distributions."""
        names = self.evaluate(
            "from importlib.metadata import distributions\n"
            "sorted(d.name.lower().replace('_', '-') for d in distributions())"
        )
        return set(names)  # type: ignore[call-overload]

    def sizes_mb(self) -> dict[str, float]:
        """The size of each top-level package, the modules that pip has compiled included."""
        site = _only(self._bin.parent, "lib/python*/site-packages")
        sizes: dict[str, float] = {}
        for path in site.rglob("*"):
            if path.is_file():
                name = path.relative_to(site).parts[0]
                sizes[name] = sizes.get(name, 0.0) + path.stat().st_size / 1e6
        return sizes

    def contract_calls(self, url: str) -> dict[str, dict[str, Any]]:
        """What comes of every call of the contract, with a real server at the URL."""
        program = ROOT / "tests/contract_calls.py"
        settings = {"HEAVY": "1", "LLAMATELEMETRY_EXPORTER": "file", "PATH": str(self._bin)}
        folder = self._workdir.with_name("calls")
        folder.mkdir()
        printed = run([self.python, program, url, folder], cwd=folder, **settings)
        return cast("dict[str, dict[str, Any]]", json.loads(printed))

    def entry_points(self, *groups: str) -> object:
        """`{group: {name: value}}` of everything whose value is ours."""
        return self.evaluate(
            "from importlib.metadata import entry_points\n"
            f"groups = {groups!r}\n"
            "found = {group: entry_points(group=group) for group in groups}\n"
            "{group: {p.name: p.value for p in points if p.value.startswith('llamatelemetry')}"
            " for group, points in found.items()}"
        )

    def active_instrumentors(self, **environment: str) -> object:
        """Which of our instrumentors a program under opentelemetry-instrument finds active."""
        return self.evaluate(
            "from importlib.metadata import entry_points\n"
            "ours = [p for p in entry_points(group='opentelemetry_instrumentor')"
            " if p.name.startswith('llamatelemetry')]\n"
            "{p.name for p in ours if p.load()().is_instrumented_by_opentelemetry}",
            instrumented=True,
            **environment,
        )


IMPORT_TAKES_NO_ACTION = """
import os, sys, threading
environment, modules = dict(os.environ), set(sys.modules)
import llamatelemetry
new = set(sys.modules) - modules
heavy = ("opentelemetry", "wrapt", "openai", "transformers", "torch", "httpx", "httpx2",
         "requests", "pynvml", "graphistry", "pandas", "rich", "typer", "xllamacpp", "grpc")
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
# What the base install says it lacks, and how to get it.
NOT_IN_BASE = {
    *("benchmark compare", "benchmark to_dataframe", "trace graph to_dataframes"),
    *("topology to_dataframe", "ServerManager", "TransformersBackend", "NCCLGroup"),
    "bench --compare",
}


def check_base_install(environment: Environment) -> None:
    """The size of the base install, and every call of the contract in it."""
    sizes = environment.sizes_mb()
    largest = sorted(sizes, key=lambda name: -sizes[name])[:8]
    listed = ", ".join(f"{name} {sizes[name]:.1f}" for name in largest)
    found_mb = f"{sum(sizes.values()):.1f} MB, of which {listed}"
    print(f"  the base install has {found_mb}")
    if sum(sizes.values()) > MAX_BASE_MB:
        raise CheckError(f"the base install has more than {MAX_BASE_MB} MB: {found_mb}")
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
    expect(set(failed), NOT_IN_BASE, f"what does not work in the base install: {failed}")
    silent = {name: said for name, said in failed.items() if "pip install" not in said}
    expect(silent, {}, "said without the command that installs it")


def check_whole_product(environment: Environment) -> None:
    """`pip install llamatelemetry`: size, calls, entry points, import, libraries come and go."""
    environment.install(DISTRO)
    check_base_install(environment)
    expect(environment.entry_points(*ENTRY_POINTS), ENTRY_POINTS, "entry points")
    ours = {name for name in environment.installed() if name.startswith(DISTRO)}
    expect(ours, set(SOURCES), "ours, with the distro")
    expect(environment.evaluate(IMPORT_TAKES_NO_ACTION), [], "import llamatelemetry")
    # requests, which the OTLP exporter brings, is enough for llama.cpp over HTTP.
    llamacpp = {"llamatelemetry_llamacpp"}
    expect(environment.active_instrumentors(), llamacpp, "without openai and transformers")
    skipped = {("DEBUG", "llamatelemetry_openai"), ("DEBUG", "llamatelemetry_transformers")}
    expect(environment.evaluate(SKIPPED_LIBRARIES), skipped, "said about absent libraries")
    environment.install("openai")
    both = llamacpp | {"llamatelemetry_openai"}
    expect(environment.active_instrumentors(), both, "without transformers")
    # Its metadata is what counts here, and without its dependencies it installs in a second.
    environment.install("--no-deps", "transformers")
    expect(environment.active_instrumentors(), set(INSTRUMENTORS), "with all libraries")
    disabled = environment.active_instrumentors(OTEL_SDK_DISABLED="true")
    expect(disabled, set(), "with OTEL_SDK_DISABLED")


def check_plugin_alone(environment: Environment) -> None:
    """One plugin brings the core and the API only, and works inside a plain distro."""
    environment.install(OPENAI)
    installed = environment.installed()
    ours = {name for name in installed if name.startswith(DISTRO)}
    expect(ours, {CORE, OPENAI}, "ours, with one plugin")
    not_wanted = {"opentelemetry-sdk", "opentelemetry-distro", "rich", "typer", "nvidia-ml-py"}
    expect(installed & not_wanted, set(), "brought along by one plugin")
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
    expect(active, {"llamatelemetry_openai"}, "one plugin inside opentelemetry-distro")


def check_other_plugins_alone(environment: Environment) -> None:
    """The other two bring no more than the core, and import without the SDK or their library."""
    environment.install(LLAMACPP, TRANSFORMERS)
    installed = environment.installed()
    ours = {name for name in installed if name.startswith(DISTRO)}
    expect(ours, {CORE, LLAMACPP, TRANSFORMERS}, "ours, with two plugins")
    expect("opentelemetry-sdk" in installed, False, "the SDK brought along")
    instrumentors = {
        name: value for name, value in INSTRUMENTORS.items() if name != "llamatelemetry_openai"
    }
    found = environment.entry_points("opentelemetry_instrumentor")
    expect(found, {"opentelemetry_instrumentor": instrumentors}, "entry points of two plugins")
    loaded = environment.evaluate(
        "from importlib.metadata import entry_points\n"
        "sorted(p.load().__name__ for p in entry_points(group='opentelemetry_instrumentor'))"
    )
    expect(loaded, ["LlamaCppInstrumentor", "TransformersInstrumentor"], "loaded without the SDK")
    active = environment.evaluate(
        "from importlib.metadata import entry_points\n"
        "ours = [p.load()() for p in entry_points(group='opentelemetry_instrumentor')]\n"
        "[(each.instrument(), each.is_instrumented_by_opentelemetry)[1] for each in ours]"
    )
    expect(active, [False, False], "instrumented without their libraries")


# ---- the list


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{what} ...", flush=True)
    yield
    print(f"  good, {time.monotonic() - started:.1f} s", flush=True)


def check_all(scratch: Path) -> None:
    """Build, then each check in an environment of its own."""
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
    """0 when all is as it should be, else 1 and what is not."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            check_all(Path(scratch))
    except CheckError as error:
        print(f"  FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
