"""Patch points in transformers. Their wrappers are in modules of their own.

Models generate in `GenerationMixin.generate` or in a method of their own (`_own_generate`), and
every pipeline runs in `Pipeline.__call__`. These call the methods of the other patch points, where
the effective settings of a generation and each of its steps are visible. Continuous batching runs
in a thread of its own, where each request is an object with a status. The wrappers are imported
together with transformers, so an application that never imports it does not load them.
"""

from __future__ import annotations

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

_GENERATE_METHODS = (
    "generate",
    "_get_logits_processor",
    "_get_stopping_criteria",
    "_has_unfinished_sequences",
)
# Module and path of each method of continuous batching. Versions before 4.53 have none of them.
_CONTINUOUS = "transformers.generation.continuous_batching"
_CONTINUOUS_METHODS = (
    ("continuous_api", "ContinuousBatchingManager.add_request"),
    ("continuous_api", "ContinuousBatchProcessor._handle_request_error"),
    ("requests", "RequestState.__init__"),
    ("requests", "RequestState.update_and_check_completion"),
    ("requests", "RequestState.update_with_token"),
    ("requests", "RequestState.to_generation_output"),
    ("requests", "RequestState.create_equivalent_initial_request"),
    ("scheduler", "Scheduler.set_request_cancellation"),
)


def patch_points(
    instrumentor: TransformersInstrumentor, own_generate: OwnGeneratePatches
) -> list[PatchPoint]:
    """Return the patch points. The wrappers read `instrumentor` at each call: it can change."""

    def generate_wrapper(method: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._generate import GenerateWrappers

        return getattr(GenerateWrappers(instrumentor), method.strip("_"))

    def pipeline_wrapper(method: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._pipeline import PipelineWrappers

        return getattr(PipelineWrappers(instrumentor), method.strip("_"))

    def continuous_wrapper(method: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._continuous import ContinuousWrappers

        return getattr(ContinuousWrappers(instrumentor), method.strip("_"))

    def serving_wrapper(method: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._serving import ServingWrappers

        return getattr(ServingWrappers(), method)

    points = [
        PatchPoint(
            "transformers.generation.utils",
            f"GenerationMixin.{method}",
            partial(generate_wrapper, method),
            optional=method != "generate",
            deferred=True,
        )
        for method in _GENERATE_METHODS
    ]
    points.append(
        PatchPoint(MODEL_MODULE, "PreTrainedModel.__init_subclass__", own_generate.on_class_created)
    )
    points += [
        PatchPoint(
            "transformers.pipelines.base",
            f"Pipeline.{method}",
            partial(pipeline_wrapper, method),
            deferred=True,
        )
        for method in ("__call__", "forward")
    ]
    points += [
        PatchPoint(
            f"{_CONTINUOUS}.{module}",
            path,
            partial(continuous_wrapper, path.rpartition(".")[2]),
            optional=True,
            deferred=True,
        )
        for module, path in _CONTINUOUS_METHODS
    ]
    points += [
        PatchPoint(
            "transformers.cli.serving.utils",
            f"InferenceThread.{method}",
            partial(serving_wrapper, method),
            optional=True,
            deferred=True,
        )
        for method in ("submit", "async_submit")
    ]
    return points


def own_generate_patches(instrumentor: TransformersInstrumentor) -> OwnGeneratePatches:
    """Return the patches of the `generate` methods that model classes define themselves."""

    def make_wrapper() -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._generate import GenerateWrappers

        return GenerateWrappers(instrumentor).own_generate

    return OwnGeneratePatches(make_wrapper)
