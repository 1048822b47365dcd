"""Wrappers for `Pipeline`; `_patches` installs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import wrapt

from llamatelemetry_instrumentation_transformers._tasks import is_lazy
from llamatelemetry_instrumentation_transformers._work import Work, working

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers._patches import Owner

    _Wrapped = Callable[..., Any]
    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]


class PipelineWrappers:
    """Wrappers of a pipeline's call, and of the model's part of it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def call(self, wrapped: _Wrapped, pipeline: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `Pipeline.__call__`, which all pipelines use."""
        inputs = args[0] if args else kwargs.get("inputs")
        work = Work(self._owner, pipeline, kwargs)
        is_iterator_expected = is_lazy(inputs)
        if not is_iterator_expected:
            work.open(inputs)
            if work.recorded is None:
                return wrapped(*args, **kwargs)
        result = _run(work, lambda: wrapped(*args, **kwargs))
        # A generator of messages is one chat and runs at once.
        if is_iterator_expected and hasattr(result, "__next__"):
            return PulledOutputs(result, self._owner, pipeline, kwargs)
        work.finish(result)
        return result

    def forward(self, wrapped: _Wrapped, pipeline: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        """Wrap `Pipeline.forward`, the model's part of the work."""
        work = working.get()
        if work is None or not work.is_of(pipeline):
            return wrapped(*args, **kwargs)
        return work.forward(wrapped, args, kwargs)


def _run(work: Work, do: Callable[[], Any]) -> Any:
    recorded = work.recorded
    token = working.set(work)
    context = None if recorded is None else recorded.call.activate()
    try:
        result = do()
    except BaseException as error:
        _leave(work, token, context)
        work.fail(error)  # no call if there are no more inputs
        raise
    _leave(work, token, context)
    return result


def _leave(work: Work, token: Any, context: Any) -> None:
    working.reset(token)
    if context is not None and work.recorded is not None:
        work.recorded.call.deactivate(context)


class PulledOutputs(wrapt.ObjectProxy):  # type: ignore[misc] - wrapt has no types
    """Iterator that a pipeline returns for a dataset or generator. Each item is a call.

    It pulls nothing that the application does not pull, and is otherwise the library's own iterator.
    Returning the next item of a finished batch is not a call.
    """

    def __init__(
        self, iterator: Any, owner: Owner, pipeline: Any, kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(iterator)  # pyright: ignore[reportUnknownMemberType]
        self._self_owner = owner
        self._self_pipeline = pipeline
        self._self_kwargs = kwargs

    def __iter__(self) -> Any:
        wrapped = cast("Any", self.__wrapped__)  # pyright: ignore[reportUnknownMemberType]
        iterator = iter(wrapped)
        if iterator is wrapped:
            return self
        return PulledOutputs(iterator, self._self_owner, self._self_pipeline, self._self_kwargs)

    def __next__(self) -> Any:
        work = Work(self._self_owner, self._self_pipeline, self._self_kwargs)
        wrapped = cast("Any", self.__wrapped__)  # pyright: ignore[reportUnknownMemberType]
        item = _run(work, wrapped.__next__)
        work.finish(item)
        return item
