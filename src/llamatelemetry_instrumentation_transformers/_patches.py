"""What is wrapped in transformers; the wrappers are in `_generate_wrappers` and `_pipeline_wrappers`.

``GenerationMixin.generate`` is where every text, speech or image model generates, and
``Pipeline.__call__`` where every pipeline is entered, whatever its task. The hooks beside them
run inside: they see the settings that a generation really has, and each of its steps. A program
that never imports transformers does not pay for the wrappers' code either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import Instrumenter, PatchPoint

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATION = "transformers.generation.utils"
_PIPELINES = "transformers.pipelines.base"


class Owner(Protocol):
    """Who has an instrumenter, and knows whether each step is to be an event."""

    instrumenter: Instrumenter
    record_events: bool


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table. What ``owner`` holds is looked up per call: it changes with re-instrumenting."""

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
