"""The stopping criteria of a generation, as a list that notes when it is asked.

It has the elements that ``generate`` and the caller put in, no more: loops of somebody else's,
beams and assistants find in it what they would find without us, and no tensor is made for it.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from llamatelemetry_instrumentation_transformers._generation import Generation


def observed(criteria: Any, generation: Generation) -> Any:
    """Give the same criteria, in a list that tells a generation when it is asked."""
    observed_list = _list_type(cast("Any", type(criteria)))(criteria)
    observed_list.generation = generation
    return observed_list


@cache
def _list_type(base: Any) -> Any:
    class ObservedCriteria(base):  # type: ignore[misc] - the library's own list
        generation: Generation

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            now_ns = perf_counter_ns()
            is_done = base.__call__(self, input_ids, scores, **kwargs)
            try:
                generation = self.generation
                generation.criteria_asked(input_ids, now_ns)
                generation.criteria_answered(is_done)
            except Exception as error:
                internal_errors.log_once("watching a generation", error)
            return is_done

        def __reduce_ex__(self, protocol: Any) -> Any:
            # A copy is not asked by the loop.
            return base, (list(self),)

    # Whoever prints the type sees the library's.
    ObservedCriteria.__name__ = ObservedCriteria.__qualname__ = base.__name__
    ObservedCriteria.__module__ = base.__module__
    return ObservedCriteria
