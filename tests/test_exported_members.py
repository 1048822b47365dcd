"""Public names: `__all__` of each package lists exactly its public functions and classes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

ROOTS = (
    "llamatelemetry",
    "llamatelemetry_instrumentation_openai",
    "llamatelemetry_instrumentation_llamacpp",
    "llamatelemetry_instrumentation_transformers",
)


def _public_packages() -> list[str]:
    names = list(ROOTS)
    for root in ROOTS:
        package = importlib.import_module(root)
        names += [
            found.name
            for found in pkgutil.walk_packages(package.__path__, f"{root}.")
            if found.ispkg and "._" not in found.name
        ]
    return names


packages = pytest.mark.parametrize("name", _public_packages())


@packages
def test_every_listed_name_exists(name):
    package = importlib.import_module(name)
    missing = [each for each in _listed(package) if not hasattr(package, each)]
    assert missing == []


@packages
def test_dir_lists_every_listed_name(name):
    package = importlib.import_module(name)
    assert set(_listed(package)) <= set(dir(package))


@packages
def test_all_lists_every_public_function_and_class(name):
    """Names that a package defines itself are public unless they begin with `_`."""
    if name == "llamatelemetry.cli":
        pytest.skip("its surface is the command line, not its functions")
    package = importlib.import_module(name)
    public = {
        each
        for each, value in vars(package).items()
        if not each.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
    }
    assert public - set(_listed(package)) == set()


@packages
def test_every_listed_function_and_class_has_a_docstring(name):
    package = importlib.import_module(name)
    silent = [
        each
        for each in _listed(package)
        if callable(value := getattr(package, each)) and not (value.__doc__ or "").strip()
    ]
    assert silent == []


def _listed(package: ModuleType) -> list[str]:
    return list(getattr(package, "__all__", ()))
