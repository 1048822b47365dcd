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
    def inherited(self, x):
        return ("inherited", x)

class Client(Base):
    limit = 5

    def own(self, x):
        return ("own", x)

    @classmethod
    def of_class(cls, x):
        return (cls.__name__, x)

    @staticmethod
    def of_none(x):
        return ("static", x)

    async def async_own(self, x):
        await asyncio.sleep(0)
        return ("async", x)

    def generated(self, x):
        yield "generated"
        yield x

    class Inner:
        def method(self, x):
            return ("inner", x)

def function(x):
    return ("function", x)
"""

# For each patch point, a call of the unpatched function and its result.
POINTS: dict[str, tuple[Callable[[ModuleType], Any], tuple[str, int]]] = {
    "Client.own": (lambda m: m.Client().own(1), ("own", 1)),
    "Client.inherited": (lambda m: m.Client().inherited(1), ("inherited", 1)),
    "Client.of_class": (lambda m: m.Client.of_class(1), ("Client", 1)),
    "Client.of_none": (lambda m: m.Client.of_none(1), ("static", 1)),
    "Client.async_own": (lambda m: asyncio.run(m.Client().async_own(1)), ("async", 1)),
    "Client.generated": (lambda m: tuple(m.Client().generated(1)), ("generated", 1)),
    "Client.Inner.method": (lambda m: m.Client.Inner().method(1), ("inner", 1)),
    "function": (lambda m: m.function(1), ("function", 1)),
}
library_numbers = itertools.count()


class Library:
    """A module for one test, which can be imported and is not imported yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = []

    def load(self) -> ModuleType:
        return importlib.import_module(self.name)

    def point(self, path: str, *, optional: bool = False) -> PatchPoint:
        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            self.seen.append((path, instance, args, kwargs))
            return wrapped(*args, **kwargs)

        return PatchPoint(self.name, path, wrapper, optional=optional)

    def table(self, *paths: str) -> PatchTable:
        return PatchTable([self.point(path) for path in paths])

    def call(self, path: str) -> int:
        """Call the function of a patch point. Return the number of wrappers that ran."""
        before = len(self.seen)
        call, expected = POINTS[path]
        assert call(self.load()) == expected
        return len(self.seen) - before

    def dicts(self) -> dict[str, Any]:
        """Return the attributes of the module and its classes, object by object."""
        module = self.load()
        return {
            "module": dict(vars(module)),
            "Base": dict(vars(module.Base)),
            "Client": dict(vars(module.Client)),
            "Inner": dict(vars(module.Client.Inner)),
        }
