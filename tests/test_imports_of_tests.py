"""What test files may import: no other test file, and no private part of another package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The package that a directory of tests is about; `llamatelemetry.<directory>` for all others.
PLUGINS = {
    "llamacpp_plugin": "llamatelemetry_instrumentation_llamacpp",
    "openai_plugin": "llamatelemetry_instrumentation_openai",
    "transformers_plugin": "llamatelemetry_instrumentation_transformers",
}
# Test module or package, and a private name of another package that it may import.
EXCEPTIONS = {
    # The list of private SDK names, which the check there compares with the source.
    ("tests.test_layers", "llamatelemetry.otel._sdk_private.PRIVATE_NAMES"),
    # The module under test belongs to no subpackage.
    ("tests.test_missing_packages", "llamatelemetry._optional"),
    ("tests.test_terminal", "llamatelemetry._terminal"),
    ("tests.test_notebook_tables", "llamatelemetry._table"),
    # Caches that live as long as the process and have no public function to reset them.
    ("tests.support.process_state", "llamatelemetry.config._sources"),
    ("tests.support.process_state", "llamatelemetry.distro._instrumentors"),
    # The commands in this process, once for each of many damaged records.
    ("tests.local.test_hostile_records", "llamatelemetry.cli._app.app"),
    # Every limit is filled where it is, and some have no public function.
    ("tests.test_limits", "llamatelemetry._limits"),
    *(
        (module, name)
        for module in ("tests.test_limits", "tests.support.filled_limits")
        for name in (
            "llamatelemetry.config._sources",
            "llamatelemetry_instrumentation_llamacpp._origins.Origins",
            "llamatelemetry_instrumentation_openai._requests",
        )
    ),
    # Resets the metrics in a forked child, where the recorder of `genai` has its own part.
    ("tests.genai", "llamatelemetry.otel._sdk_private.reset_metrics_after_fork"),
}


def test_no_test_file_imports_another_test_file_or_another_directory():
    found = [
        f"{module}:{line} imports {name}"
        for module, line, name in _imports()
        if _is_of_another_test_file(module, name)
    ]
    assert found == [], (
        "Tests import from tests.support and from modules of their own directory that are not test "
        "files. Move shared functions to one of these, and fixtures to conftest.py."
    )


def test_no_test_file_imports_private_names_of_another_package():
    found = [
        f"{module}:{line} imports {name}"
        for module, line, name in _imports()
        if _is_private_of_another_package(module, name)
        and not any(_within(module, tests) and _within(name, it) for tests, it in EXCEPTIONS)
    ]
    assert found == [], (
        "Tests in tests/<package>/ import private names of that package only. Use a public name, "
        "or move the test to the directory of the package that it is about."
    )


@pytest.mark.parametrize(
    ("module", "name", "is_wrong"),
    [
        ("tests.genai.test_a", "tests.genai.test_b.chat", True),
        ("tests.genai.test_a", "tests.genai.conftest.chat", False),
        ("tests.genai.wire.test_a", "tests.genai.conftest.chat", False),
        ("tests.genai.test_a", "tests.llama.conftest.chat", True),
        ("tests.genai.test_a", "tests.support.waiting.wait_for", False),
        ("tests.test_a", "tests.llama.conftest.chat", True),
        ("tests.test_a", "os.path", False),
    ],
)
def test_import_check_finds_other_test_files(module, name, is_wrong):
    assert _is_of_another_test_file(module, name) is is_wrong


@pytest.mark.parametrize(
    ("module", "name", "is_wrong"),
    [
        ("tests.nccl.test_a", "llamatelemetry.nccl._group.X", False),
        ("tests.nccl.test_a", "llamatelemetry.config._sources.X", True),
        ("tests.nccl.test_a", "llamatelemetry.config._X", True),
        ("tests.nccl.test_a", "llamatelemetry.config.X", False),
        ("tests.nccl.test_a", "llamatelemetry.__version__", False),
        ("tests.openai_plugin.test_a", "llamatelemetry_instrumentation_openai._call", False),
        ("tests.openai_plugin.test_a", "llamatelemetry_instrumentation_llamacpp._call", True),
        ("tests.test_a", "llamatelemetry.nccl._group.X", True),
        ("tests.test_a", "opentelemetry.sdk._logs.LoggerProvider", False),
    ],
)
def test_import_check_finds_private_names(module, name, is_wrong):
    assert _is_private_of_another_package(module, name) is is_wrong


def _imports() -> Iterator[tuple[str, int, str]]:
    """Yield the importing module, the line and the imported name.

    Imports in functions count, and so do imports of `tests` in programs that are strings.
    """
    for path in sorted(TESTS.rglob("*.py")):
        module = ".".join(("tests", *path.relative_to(TESTS).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (
                    (module, node.lineno, f"{node.module}.{alias.name}") for alias in node.names
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.finditer(r"(?m)^ *from (tests[.\w]+) import (\w+)", node.value)
                yield from ((module, node.lineno, ".".join(each.groups())) for each in found)


def _is_of_another_test_file(module: str, name: str) -> bool:
    first, _, rest = name.partition(".")
    if first != "tests":
        return False
    if any(part.startswith("test_") for part in rest.split(".")):
        return True
    return not _within(name, "tests.support") and _directory_of(module) != rest.partition(".")[0]


def _is_private_of_another_package(module: str, name: str) -> bool:
    directory = _directory_of(module)
    own = PLUGINS.get(directory, f"llamatelemetry.{directory}")
    is_private = any(part.startswith("_") and part[:2] != "__" for part in name.split("."))
    return is_private and name.startswith("llamatelemetry") and not _within(name, own)


def _directory_of(module: str) -> str:
    """Return the first directory below `tests`, or an empty string for a file in `tests` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
