"""Taps as stand-ins for the iterator they are put in front of."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llamatelemetry.genai import AsyncStreamWrapper, StreamObserver, StreamWrapper


async def nothing() -> AsyncIterator[Any]:
    return
    yield


def test_a_tap_answers_for_its_source():
    class Source:
        answer = 42

        def __next__(self) -> int:
            raise StopIteration

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        def close(self) -> str:
            return "closed"

    for kind in (StreamWrapper, AsyncStreamWrapper):
        tap = kind(Source(), _Nobody())
        assert tap.answer == 42
        assert tap.close() == "closed"
        with pytest.raises(AttributeError, match="missing"):
            _ = tap.missing


class _Nobody:
    """A watch that is told everything and does nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args: None


@pytest.mark.parametrize("kind", [StreamWrapper, AsyncStreamWrapper])
def test_a_source_that_is_no_iterator_is_refused_without_an_echo(kind, start, recorder):
    watch = StreamObserver(start(stream=True))
    with pytest.raises(AttributeError, match="next"):
        kind([1, 2], watch)
    gc.collect()  # an error in a finaliser would fail this test
    assert len(recorder.calls()) == 1  # dropped, and ended


def test_an_iterator_tap_is_an_iterator(start):
    tap = StreamWrapper(iter([]), StreamObserver(start(stream=True)))
    assert iter(tap) is tap
    tap = AsyncStreamWrapper(nothing(), StreamObserver(start(stream=True)))
    assert aiter(tap) is tap
