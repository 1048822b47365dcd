"""Import rules that import-linter cannot check: the place of an import, and the imported names.

The order of the layers themselves is in pyproject.toml, held by `scripts/check`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from llamatelemetry.otel._sdk_private import PRIVATE_NAMES

SRC = Path(__file__).parents[1] / "src"

# Heavy or absent: imported inside the function that needs them.
OPTIONAL = {
    "openai",
    "transformers",
    "torch",
    "httpx",
    "httpx2",
    "requests",
    "pynvml",
    "graphistry",
    "pandas",
    "numpy",
    "scipy",
    "jinja2",
    "rich",
    "typer",
    "xllamacpp",
    "llama_cpp",
}
# Who may import one of them at the top of a module, because nothing else imports that module.
ALLOWED_AT_TOP = {
    "rich": ("llamatelemetry.cli",),
    "numpy": (
        "llamatelemetry.bench.analysis.intervals",
        "llamatelemetry.bench.analysis.significance",
    ),
    "scipy": ("llamatelemetry.bench.analysis.intervals",),
    "typer": ("llamatelemetry.cli",),
}
# Everything a plugin installed by itself can reach: it brings the API, not the SDK.
WITHOUT_SDK = (
    "llamatelemetry.semconv",
    "llamatelemetry.config",
    "llamatelemetry.genai",
    "llamatelemetry_instrumentation_",
)
SDK = ("opentelemetry.sdk", "opentelemetry.exporter")


# The only module that may name private parts of OpenTelemetry.
PRIVATE_NAMES_ALLOWED = "llamatelemetry.otel._sdk_private"
# Public in effect: OpenTelemetry has no other names for these modules.
UNDERSCORED_BUT_PUBLIC = re.compile(r"opentelemetry(\.sdk)?\._logs(\.export)?(\.[A-Za-z]\w*)?")


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    at_top: bool

    def names(self, *packages: str) -> bool:
        return any(
            self.imported == package or self.imported.startswith(f"{package}.")
            for package in packages
        )

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def test_optional_libraries_are_imported_inside_functions_only(imports):
    wrong = [
        str(found)
        for found in imports
        if found.at_top
        and (root := found.imported.partition(".")[0]) in OPTIONAL
        and not _within(found.importer, ALLOWED_AT_TOP.get(root, ()))
    ]
    assert wrong == []


def test_modules_that_plugins_import_never_import_sdk(imports):
    wrong = [
        str(found)
        for found in imports
        if found.importer.startswith(WITHOUT_SDK) and found.names(*SDK)
    ]
    assert wrong == []


def test_only_one_module_names_private_parts_of_opentelemetry():
    found = [
        f"{module}:{line} names {name}"
        for module, tree in _modules()
        if module != PRIVATE_NAMES_ALLOWED
        for line, name in _private_names_in(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from opentelemetry.sdk._configuration import X", ["opentelemetry.sdk._configuration.X"]),
        ("from opentelemetry.metrics import _Gauge", ["opentelemetry.metrics._Gauge"]),
        (
            "import opentelemetry.util._importlib_metadata",
            ["opentelemetry.util._importlib_metadata"],
        ),
        ("from opentelemetry._logs._internal import P", ["opentelemetry._logs._internal.P"]),
        ("import_module('opentelemetry.sdk._x')", ["opentelemetry.sdk._x"]),
        ("from opentelemetry import _logs", []),
        ("from opentelemetry.sdk._logs.export import LogRecordExporter", []),
        ("provider._active_span_processor", ["_active_span_processor"]),
        ("span._attributes = {}", ["_attributes"]),
        ("getattr(reader, '_exporter', None)", ["_exporter"]),
        ("self._attributes", []),
        ("'opentelemetry.sdk.trace'", []),
    ],
)
def test_private_name_check_finds(source, expected):
    assert [name for _, name in _private_names_in(ast.parse(source))] == expected


def test_core_modules_do_not_import_lazy_package_names(imports):
    """`from llamatelemetry import init` inside the core would bypass the layers."""
    core = SRC / "llamatelemetry"
    wrong = [
        str(found)
        for found in imports
        if found.importer != "llamatelemetry"
        and (parts := found.imported.split("."))[0] == "llamatelemetry"
        and parts[1:2] not in ([], ["__version__"])
        and not (core / parts[1]).is_dir()
        and not (core / f"{parts[1]}.py").is_file()
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import openai", [("openai", True)]),
        ("from openai.types import chat", [("openai.types.chat", True)]),
        ("try:\n    import torch\nexcept ImportError: ...", [("torch", True)]),
        ("class A:\n    import torch", [("torch", True)]),
        ("def f():\n    import torch", [("torch", False)]),
        ("async def f():\n    from a import b", [("a.b", False)]),
        ("if TYPE_CHECKING:\n    import torch", []),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [("b", True)]),
        ("from . import sibling", [("pkg.sibling", True)]),
        ("from .sibling import x", [("pkg.sibling.x", True)]),
    ],
)
def test_import_reader_finds_imports(source, expected):
    found = [(i.imported, i.at_top) for i in _imports_of(ast.parse(source), "pkg.mod", "pkg")]
    assert found == expected


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    found = [found for path in sorted(SRC.rglob("*.py")) for found in _imports_in(path)]
    assert found, "no imports read: is src where it was?"
    return found


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text())


def _private_names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield private modules and names of OpenTelemetry, and private attributes of its objects.

    An attribute counts if its name is in `PRIVATE_NAMES` and it is not an attribute of `self`.
    """
    identifiers = {name for each in PRIVATE_NAMES if (name := re.split("[.:]", each)[-1])[0] == "_"}
    # Parts of spans, for which `_sdk_private` has functions.
    identifiers |= {"_attributes", "_dict", "_events", "_links"}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = _imported_names(node, "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if re.fullmatch(r"[\w.]+", node.value) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
        ):
            word = getattr(node.args[1], "value", None)
            if word in identifiers:
                yield node.lineno, word
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in identifiers
            and ast.unparse(node.value) not in ("self", "cls")
        ):
            yield node.lineno, node.attr
        for name in names:
            is_private = re.match(r"opentelemetry\.(.*\.)?_[^_]", name)
            if is_private and not UNDERSCORED_BUT_PUBLIC.fullmatch(name):
                yield node.lineno, name


def _imports_in(path: Path) -> Iterator[Import]:
    parts = path.relative_to(SRC).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    package = module if is_package else module.rpartition(".")[0]
    yield from _imports_of(ast.parse(path.read_text()), module, package)


def _imports_of(
    node: ast.AST, module: str, package: str, *, at_top: bool = True
) -> Iterator[Import]:
    for child in _runtime_children(node):
        for name in _imported_names(child, package):
            yield Import(module, name, child.lineno, at_top)
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports_of(child, module, package, at_top=at_top and not in_function)


def _runtime_children(node: ast.AST) -> Iterator[ast.AST]:
    """Return the children of a node, without `if TYPE_CHECKING` branches."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        yield from node.orelse
    else:
        yield from ast.iter_child_nodes(node)


def _imported_names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package.rsplit(".", node.level - 1)[0] if node.level else ""
        origin = ".".join(part for part in (base, node.module) if part)
        return [f"{origin}.{alias.name}" for alias in node.names]
    return []


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
