"""Stream wrappers as replacements of the iterators that they wrap."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
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


def test_call_goes_on_when_second_thread_cannot_read(start, recorder):
    started, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[Any]:
        started.set()
        assert go_on.wait(30)
        yield {"choices": [], "usage": {"completion_tokens": 3}}

    wrapper = StreamWrapper(source(), StreamObserver(start(stream=True)))
    reader = threading.Thread(target=list, args=(wrapper,))
    reader.start()
    assert started.wait(30)
    with pytest.raises(ValueError, match="already executing"):
        next(wrapper)
    assert recorder.calls() == []
    go_on.set()
    reader.join()
    span = recorder.call()
    assert "error.type" not in span.attributes
    assert span.attributes["gen_ai.usage.output_tokens"] == 3


async def test_call_goes_on_when_second_task_cannot_read(start, recorder):
    async def source() -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield {"choices": [], "usage": {"completion_tokens": 3}}

    wrapper = AsyncStreamWrapper(source(), StreamObserver(start(stream=True)))
    first, second = await asyncio.gather(anext(wrapper), anext(wrapper), return_exceptions=True)
    assert first["usage"]
    assert isinstance(second, RuntimeError)
    assert [chunk async for chunk in wrapper] == []
    span = recorder.call()
    assert "error.type" not in span.attributes
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
