"""The patch points of all plugins, from the plugins' own tables."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

import wrapt

import llamatelemetry_instrumentation_llamacpp as llamacpp
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

INSTRUMENTORS: tuple[Any, ...] = (
    OpenAIInstrumentor,
    LlamaCppInstrumentor,
    TransformersInstrumentor,
)


def make_bedrock_client(name: str) -> Any:
    kind = getattr(importlib.import_module("openai"), name)
    return kind(api_key="k", base_url="http://127.0.0.1:9")


class Point(NamedTuple):
    """A patch point of a plugin."""

    module: str
    path: str

    @property
    def owner(self) -> str:
        return f"{self.module}:{self.path.partition('.')[0]}"

    def in_library(self) -> Any:
        """Return the function as it is stored in its class."""
        return wrapt.resolve_path(importlib.import_module(self.module), self.path)[2]

    def from_class(self) -> Any:
        class_name, _, name = self.path.partition(".")
        return getattr(getattr(importlib.import_module(self.module), class_name), name)

    def bound(self, instance: Any) -> Any:
        return getattr(instance, self.path.partition(".")[2])


def points() -> list[Point]:
    """Return all patch points from the plugins' own tables."""
    openai_patches, transformers_patches = (
        importlib.import_module(f"{each.__module__}._patches")
        for each in (OpenAIInstrumentor, TransformersInstrumentor)
    )
    own_generate = transformers_patches.own_generate_patches(None)
    tables = [
        openai_patches.patch_points(None),
        # The plugin of Transformers also has patches of classes that are not listed here.
        transformers_patches.patch_points(None, own_generate),
    ]
    for library, name in llamacpp.PATCHED_BY.items():
        module = importlib.import_module(f"{llamacpp.__name__}.{name}")
        tables.append(module.patch_points(None, library))
    found = [Point(each.module, each.path) for table in tables for each in table]
    return [each for each in found if not _is_internal(each) and _exists(each)]


def _is_internal(point: Point) -> bool:
    """Return whether the library itself calls the function, on objects that it creates."""
    is_batching = ".continuous_batching." in point.module or ".serving." in point.module
    is_request = point.path == "ClientRequest.send"  # of aiohttp, one per redirect
    return is_batching or is_request or point.path.endswith(".__init_subclass__")


def _exists(point: Point) -> bool:
    # Old versions of openai have no client of Bedrock.
    return point.module != "openai.lib.bedrock" or (
        importlib.util.find_spec(point.module) is not None
    )


POINTS = points()
