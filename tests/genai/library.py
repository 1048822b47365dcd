"""A library that is patched in tests: a real module, created for each test."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from llamatelemetry.genai import PatchPoint, PatchTable

SOURCE = """
import asyncio

class Base:
    def inherited_method(self, x):
        return ("inherited_method", x)

class Client(Base):
    limit = 5

    def method(self, x):
        return ("method", x)

    @classmethod
    def class_method(cls, x):
        return (cls.__name__, x)

    @staticmethod
    def static_method(x):
        return ("static", x)

    async def async_method(self, x):
        await asyncio.sleep(0)
        return ("async", x)

    def generator_method(self, x):
        yield "generator_method"
        yield x

    class Nested:
        def nested_method(self, x):
            return ("nested", x)

def function(x):
    return ("function", x)
"""

# For each patch point, a call of the unpatched function and its result.
POINTS: dict[str, tuple[Callable[[ModuleType], Any], tuple[str, int]]] = {
    "Client.method": (lambda m: m.Client().method(1), ("method", 1)),
    "Client.inherited_method": (lambda m: m.Client().inherited_method(1), ("inherited_method", 1)),
    "Client.class_method": (lambda m: m.Client.class_method(1), ("Client", 1)),
    "Client.static_method": (lambda m: m.Client.static_method(1), ("static", 1)),
    "Client.async_method": (lambda m: asyncio.run(m.Client().async_method(1)), ("async", 1)),
    "Client.generator_method": (
        lambda m: tuple(m.Client().generator_method(1)),
        ("generator_method", 1),
    ),
    "Client.Nested.nested_method": (lambda m: m.Client.Nested().nested_method(1), ("nested", 1)),
    "function": (lambda m: m.function(1), ("function", 1)),
}
library_numbers = itertools.count()


class Library:
    """A module for one test, which can be imported and is not imported yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrapper_calls: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = []

    def load(self) -> ModuleType:
        return importlib.import_module(self.name)

    def point(self, path: str, *, optional: bool = False) -> PatchPoint:
        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            self.wrapper_calls.append((path, instance, args, kwargs))
            return wrapped(*args, **kwargs)

        return PatchPoint(self.name, path, wrapper, optional=optional)

    def table(self, *paths: str) -> PatchTable:
        return PatchTable([self.point(path) for path in paths])

    def call(self, path: str) -> int:
        """Call the function of a patch point. Return the number of wrappers that ran."""
        before = len(self.wrapper_calls)
        call, expected = POINTS[path]
        assert call(self.load()) == expected
        return len(self.wrapper_calls) - before

    def namespaces(self) -> dict[str, Any]:
        """Return the attributes of the module and its classes, object by object."""
        module = self.load()
        return {
            "module": dict(vars(module)),
            "Base": dict(vars(module.Base)),
            "Client": dict(vars(module.Client)),
            "Nested": dict(vars(module.Client.Nested)),
        }
