"""Patch points in transformers. `_generate_wrappers` and `_pipeline_wrappers` have the wrappers.

All text, speech and image models generate in `GenerationMixin.generate`, and all pipelines run through
`Pipeline.__call__`. The other patch points are called by these; they see the effective settings of a
generation and each of its steps. An application that never imports transformers does not import the
wrappers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import Instrumenter, PatchPoint

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATION = "transformers.generation.utils"
_PIPELINES = "transformers.pipelines.base"


class Owner(Protocol):
    """State of the instrumentor that the wrappers use."""

    instrumenter: Instrumenter
    record_events: bool


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """Return the patch points. The wrappers read the state per call, because it can change."""

    def generate_wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_transformers._generate_wrappers import (
                GenerateWrappers,
            )

            return getattr(GenerateWrappers(owner), name)

        return load

    def pipeline_wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_transformers._pipeline_wrappers import (
                PipelineWrappers,
            )

            return getattr(PipelineWrappers(owner), name)

        return load

    return (
        *(
            PatchPoint(
                _GENERATION,
                f"GenerationMixin.{method}",
                generate_wrapper(name),
                optional=method != "generate",
                deferred=True,
            )
            for method, name in (
                ("generate", "generate"),
                ("_get_logits_processor", "prompt_is_known"),
                ("_get_stopping_criteria", "criteria_are_known"),
                ("_has_unfinished_sequences", "step_has_ended"),
            )
        ),
        *(
            PatchPoint(_PIPELINES, f"Pipeline.{method}", pipeline_wrapper(name), deferred=True)
            for method, name in (("__call__", "call"), ("forward", "forward"))
        ),
    )
