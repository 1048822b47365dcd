"""Patch points in transformers. Their wrappers are in `_generate` and `_pipeline`.

Every model generates in `GenerationMixin.generate`, and every pipeline runs in `Pipeline.__call__`.
These two call the methods of the other patch points, where the effective settings of a generation
and each of its steps are visible. The wrappers are imported together with transformers, so an
application that never imports it does not load them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import Instrumenter, PatchPoint

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATION = "transformers.generation.utils"
_PIPELINES = "transformers.pipelines.base"


class InstrumentorState(Protocol):
    """Attributes of the active instrumentor that the wrappers read.

    Attributes:
        instrumenter: Instrumenter that starts the calls.
        record_events: Whether each step of a generation is recorded as a span event.
    """

    instrumenter: Instrumenter
    record_events: bool


def patch_points(state: InstrumentorState) -> tuple[PatchPoint, ...]:
    """Return the patch points. The wrappers read `state` at each call, because it can change."""

    def generate_wrapper(name: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._generate import GenerateWrappers

        return getattr(GenerateWrappers(state), name)

    def pipeline_wrapper(name: str) -> Callable[..., Any]:
        from llamatelemetry_instrumentation_transformers._pipeline import PipelineWrappers

        return getattr(PipelineWrappers(state), name)

    return (
        *(
            PatchPoint(
                _GENERATION,
                f"GenerationMixin.{method}",
                partial(generate_wrapper, name),
                optional=method != "generate",
                deferred=True,
            )
            for method, name in (
                ("generate", "generate"),
                ("_get_logits_processor", "get_logits_processor"),
                ("_get_stopping_criteria", "get_stopping_criteria"),
                ("_has_unfinished_sequences", "has_unfinished_sequences"),
            )
        ),
        *(
            PatchPoint(
                _PIPELINES, f"Pipeline.{method}", partial(pipeline_wrapper, name), deferred=True
            )
            for method, name in (("__call__", "call"), ("forward", "forward"))
        ),
    )
