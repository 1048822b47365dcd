"""Stream wrappers as replacements of the iterators that they wrap."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llamatelemetry.genai import AsyncStreamWrapper, StreamObserver, StreamWrapper


async def empty_stream() -> AsyncIterator[Any]:
    return
    yield


class IgnoringObserver:
    """An observer that does nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args: None


@pytest.mark.parametrize("wrapper_class", [StreamWrapper, AsyncStreamWrapper])
def test_wrapper_has_attributes_of_wrapped_iterator(wrapper_class):
    class Source:
        answer = 42

        def __next__(self) -> int:
            raise StopIteration

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        def close(self) -> str:
            return "closed"

    wrapper = wrapper_class(Source(), IgnoringObserver())
    assert wrapper.answer == 42
    assert wrapper.close() == "closed"
    with pytest.raises(AttributeError, match="missing"):
        _ = wrapper.missing


@pytest.mark.parametrize("wrapper_class", [StreamWrapper, AsyncStreamWrapper])
def test_wrapper_rejects_source_that_is_not_an_iterator(wrapper_class, start, recorder):
    observer = StreamObserver(start(stream=True))
    with pytest.raises(AttributeError, match="next"):
        wrapper_class([1, 2], observer)
    gc.collect()  # An error in the finalizer would fail this test.
    assert len(recorder.calls()) == 1  # The call of the abandoned stream has ended.


def test_wrapper_is_its_own_iterator(start):
    wrapper = StreamWrapper(iter([]), StreamObserver(start(stream=True)))
    assert iter(wrapper) is wrapper
    async_wrapper = AsyncStreamWrapper(empty_stream(), StreamObserver(start(stream=True)))
    assert aiter(async_wrapper) is async_wrapper
