"""The examples in the docstrings of the public interface, and how they run.

    python -m tests.support.docstring_examples < docstring

Examples are complete, except that those of a benchmark may use the names of `llamatelemetry.bench`
and a `client`. An example that changes the whole process, as `init()` does, runs in a process of its own.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llamatelemetry import bench

ROOT = Path(__file__).parents[2]
# The packages that docs/ describes for users, without those for authors of plugins.
PACKAGES = (
    "llamatelemetry",
    "llamatelemetry.bench",
    "llamatelemetry.distributed",
    "llamatelemetry.gpu",
    "llamatelemetry.graphistry",
    "llamatelemetry.inference",
    "llamatelemetry.llama",
    "llamatelemetry.nccl",
    "llamatelemetry.otel",
    "llamatelemetry.pipeline",
    "llamatelemetry.semconv",
    "llamatelemetry.transformers",
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_CHANGES_PROCESS = re.compile(r"\.init\(|\.instrument\(|NCCLGroup\(")


class EchoEngine:
    """The `client` of examples that benchmark one. A server would take minutes for all of them."""

    model_name = "echo"

    def generate(self, prompt: str, max_tokens: int = 256, temperature: float = 0.7) -> str:
        return prompt

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 256, temperature: float = 0.7
    ) -> dict[str, Any]:
        return {"choices": [{"message": messages[-1]}]}


class Documented(NamedTuple):
    """A function, class or method of the public interface, by its first name."""

    name: str
    value: Any

    def __str__(self) -> str:
        return self.name

    @property
    def docstring(self) -> str:
        return inspect.getdoc(self.value) or ""

    @property
    def has_example(self) -> bool:
        return ">>>" in self.docstring

    @property
    def short_name(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_error(self) -> bool:
        return inspect.isclass(self.value) and issubclass(self.value, Exception)

    def methods(self) -> Iterator[Documented]:
        """Yield the public methods of a class, with those of llamatelemetry's base classes."""
        if not inspect.isclass(self.value):
            return
        for name in dir(self.value):
            # A class method is a method of the class, any other one a function.
            method = inspect.unwrap(getattr(self.value, name, None))
            function = getattr(method, "__func__", method)
            if not name.startswith("_") and inspect.isfunction(function):
                module = function.__module__ or ""
                if module.startswith("llamatelemetry"):
                    yield Documented(f"{self.name}.{name}", function)


def public_interface() -> list[Documented]:
    """Return the public functions and classes of all packages, each one once."""
    found: dict[int, Documented] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                documented = Documented(f"{package.removeprefix('llamatelemetry.')}.{name}", value)
                found.setdefault(id(value), documented)
    return list(found.values())


def calls_of(documented: Iterable[Documented]) -> str:
    """Return the source code of all examples."""
    parser = doctest.DocTestParser()
    examples = [parser.get_examples(each.docstring) for each in documented]
    return "".join(example.source for found in examples for example in found)


def run(docstring: str, cwd: Path) -> str:
    """Run the examples of a docstring and return the failures, which are empty if there are none.

    `cwd` is the current directory, also of a process of its own.
    """
    if not _CHANGES_PROCESS.search(docstring):
        return run_here(docstring)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", __name__],
        input=docstring,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OTEL_PYTHON_DISTRO": "llamatelemetry"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return done.stdout or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def run_here(docstring: str) -> str:
    """Run the examples of a docstring in this process. Return the failures."""
    names = {name: getattr(bench, name) for name in bench.__all__} | {"client": EchoEngine()}
    test = doctest.DocTestParser().get_doctest(docstring, names, "docstring", None, None)
    assert test.examples
    output = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    runner.run(test, out=output.write, clear_globs=False)
    # An example may leave its client open, for brevity.
    client = test.globs["client"]
    if hasattr(client, "close"):
        client.close()
    return output.getvalue()


if __name__ == "__main__":
    sys.stdout.write(run_here(sys.stdin.read()))
