"""Stopping criteria that notify a generation of each evaluation."""

from __future__ import annotations

from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from llamatelemetry_instrumentation_transformers._generation import Generation


def observe_criteria(criteria: Any, generation: Generation) -> Any:
    """Return the same criteria in a list that notifies the generation of each evaluation.

    The list has exactly the elements of the original one, so custom loops, beam search and
    assisted generation behave as without it. It creates no tensor.
    """
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
                internal_errors.log_once("observing a generation", error)
            return is_done

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The loop does not evaluate copies, so a copy is a plain list of the library.
            return base, (list(self),)

    # The type is printed like that of the library.
    ObservedCriteria.__name__ = ObservedCriteria.__qualname__ = base.__name__
    ObservedCriteria.__module__ = base.__module__
    return ObservedCriteria
