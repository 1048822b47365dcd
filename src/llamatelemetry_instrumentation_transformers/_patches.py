"""Patch points in transformers. Their wrappers are in modules of their own.

Models generate in `GenerationMixin.generate` or in a method of their own (`_own_generate`), and
every pipeline runs in `Pipeline.__call__`. These call the methods of the other patch points, where
the effective settings of a generation and each of its steps are visible. Continuous batching runs
in a thread of its own, where each request is an object with a status. The wrappers are imported
together with transformers, so an application that never imports it does not load them.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import PatchPoint
from llamatelemetry_instrumentation_transformers._own_generate import (
    MODEL_MODULE,
    OwnGeneratePatches,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

_PACKAGE = __name__.rpartition(".")[0]
_BATCHING = "transformers.generation.continuous_batching"
# The module of transformers, the path in it, the class of this package that has the wrapper under
# the same name, and whether versions without the function are supported.
_POINTS = (
    (
        "transformers.generation.utils",
        "GenerationMixin.generate",
        "_generate:GenerateWrappers",
        False,
    ),
    *(
        (
            "transformers.generation.utils",
            f"GenerationMixin.{method}",
            "_generate:GenerateWrappers",
            True,
        )
        for method in (
            "_get_logits_processor",
            "_get_stopping_criteria",
            "_has_unfinished_sequences",
        )
    ),
    *(
        ("transformers.pipelines.base", f"Pipeline.{method}", "_pipeline:PipelineWrappers", False)
        for method in ("__call__", "forward")
    ),
    # Versions before 4.53 have no continuous batching.
    *(
        (f"{_BATCHING}.{module}", path, "_continuous:ContinuousWrappers", True)
        for module, path in (
            ("continuous_api", "ContinuousBatchingManager.add_request"),
            ("continuous_api", "ContinuousBatchProcessor._handle_request_error"),
            ("requests", "RequestState.__init__"),
            ("requests", "RequestState.update_and_check_completion"),
            ("requests", "RequestState.update_with_token"),
            ("requests", "RequestState.to_generation_output"),
            ("requests", "RequestState.create_equivalent_initial_request"),
            ("scheduler", "Scheduler.set_request_cancellation"),
        )
    ),
    *(
        (
            "transformers.cli.serving.utils",
            f"InferenceThread.{method}",
            "_serving:ServingWrappers",
            True,
        )
        for method in ("submit", "async_submit")
    ),
)


def patch_points(
    instrumentor: TransformersInstrumentor, own_generate: OwnGeneratePatches
) -> list[PatchPoint]:
    """Return the patch points. The wrappers read `instrumentor` at each call: it can change."""

    def make_wrapper(where: str, path: str) -> Callable[..., Any]:
        module, _, name = where.partition(":")
        wrappers = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
        return getattr(wrappers(instrumentor), path.rpartition(".")[2].strip("_"))

    points = [
        PatchPoint(module, path, partial(make_wrapper, where, path), is_optional, deferred=True)
        for module, path, where, is_optional in _POINTS
    ]
    on_class_created = own_generate.on_class_created
    points.append(PatchPoint(MODEL_MODULE, "PreTrainedModel.__init_subclass__", on_class_created))
    return points


def own_generate_patches(instrumentor: TransformersInstrumentor) -> OwnGeneratePatches:
    """Return the patches of the `generate` methods that model classes define themselves."""

    def make_wrapper() -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._generate import GenerateWrappers

        return GenerateWrappers(instrumentor).own_generate

    return OwnGeneratePatches(make_wrapper)
