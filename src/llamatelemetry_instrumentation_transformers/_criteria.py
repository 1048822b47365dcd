"""The stopping criteria of a generation, in a list that reports each call.

It contains only the elements of `generate` and the caller, so that custom loops, beam search and
assisted generation see the same list as without instrumentation. It creates no tensors.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from llamatelemetry_instrumentation_transformers._generation import Generation


def observed(criteria: Any, generation: Generation) -> Any:
    """Return the same criteria in a list that reports its calls to a generation."""
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
                generation.on_criteria_called(input_ids, now_ns)
                generation.on_criteria_result(is_done)
            except Exception as error:
                internal_errors.log_once("watching a generation", error)
            return is_done

        def __reduce_ex__(self, protocol: Any) -> Any:
            # Only the original list is used by the loop.
            return base, (list(self),)

    # The printed type is that of the library.
    ObservedCriteria.__name__ = ObservedCriteria.__qualname__ = base.__name__
    ObservedCriteria.__module__ = base.__module__
    return ObservedCriteria
