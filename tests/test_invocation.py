"""`llamatelemetry.invocation()` flushes at the end of each invocation."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace

import llamatelemetry
from tests.support.otlp_receiver import Received, http_receiver


@pytest.fixture
def received():
    with http_receiver() as received:
        llamatelemetry.init("invoked", otlp_endpoint=received.url, enable_metrics=False)
        yield received
        received.may_respond.set()
        llamatelemetry.shutdown()


def work() -> None:
    trace.get_tracer("test").start_span("work").end()


def function(value: int) -> int:
    work()
    return value


async def coroutine_function(value: int) -> int:
    work()
    await asyncio.sleep(0)
    return value


def function_that_returns_coroutine(value: int):
    return coroutine_function(value)


def generator(value: int):
    work()
    sent = yield value
    try:
        yield sent
    except KeyError:
        yield "caught"
    return value


async def async_generator(value: int):
    work()
    sent = yield value
    try:
        yield sent
    except KeyError:
        yield "caught"


def run_generator(decorated: Callable[[int], Any]) -> list[Any]:
    running = decorated(1)
    seen = [next(running), running.send("sent"), running.throw(KeyError())]
    with pytest.raises(StopIteration) as stop:
        next(running)
    return [*seen, stop.value.value]


async def run_async_generator(decorated: Callable[[int], Any]) -> list[Any]:
    running = decorated(1)
    seen = [await anext(running), await running.asend("sent"), await running.athrow(KeyError())]
    with pytest.raises(StopAsyncIteration):
        await anext(running)
    return [*seen, 1]


KINDS = {
    "function": (function, lambda decorated: decorated(1), 1),
    "coroutine function": (coroutine_function, lambda decorated: asyncio.run(decorated(1)), 1),
    "function that returns a coroutine": (
        function_that_returns_coroutine,
        lambda decorated: asyncio.run(decorated(1)),
        1,
    ),
    "generator": (generator, run_generator, [1, "sent", "caught", 1]),
    "asynchronous generator": (
        async_generator,
        lambda decorated: asyncio.run(run_async_generator(decorated)),
        [1, "sent", "caught", 1],
    ),
}


@pytest.mark.parametrize(
    "decorate",
    [
        llamatelemetry.invocation,
        llamatelemetry.invocation(),
        llamatelemetry.invocation(timeout_s=30),
    ],
    ids=["bare", "without arguments", "with arguments"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_decorated_function_flushes_at_its_end(kind, decorate, received: Received):
    undecorated, run, result = KINDS[kind]
    decorated = decorate(undecorated)
    assert decorated.__name__ == undecorated.__name__
    assert inspect.signature(decorated) == inspect.signature(undecorated)
    for check in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert check(decorated) == check(undecorated)
    for times in (1, 2):
        assert run(decorated) == result
        assert received.spans() == ["work"] * times


def test_block_flushes_at_its_end(received: Received):
    with llamatelemetry.invocation():
        work()
        assert received.spans() == []
    assert received.spans() == ["work"]


def test_async_block_flushes_without_blocking_event_loop(received: Received):
    async def main() -> None:
        received.may_respond.clear()
        ticks = asyncio.create_task(respond_later())
        async with llamatelemetry.invocation(timeout_s=30):
            work()
        assert ticks.done()

    async def respond_later() -> None:
        await asyncio.sleep(0.2)
        received.may_respond.set()

    asyncio.run(main())
    assert received.spans() == ["work"]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_exception_of_function_stays_the_same(kind, received: Received):
    error = LookupError("own")

    @llamatelemetry.invocation
    def fail() -> None:
        work()
        raise error

    @llamatelemetry.invocation
    async def fail_later() -> None:
        work()
        raise error

    with pytest.raises(LookupError) as raised:
        fail() if kind == "function" else asyncio.run(fail_later())
    assert raised.value is error
    assert received.spans() == ["work"]


def test_failed_flush_is_logged_once_and_result_stays(received: Received, caplog):
    caplog.set_level(logging.WARNING, "llamatelemetry")
    received.status = 400
    handler = llamatelemetry.invocation(function)
    assert [handler(1), handler(2)] == [1, 2]
    logged = [each for each in caplog.messages if "invocation" in each]
    assert logged == ["Not all telemetry of this invocation was exported within 5 s"]


def test_methods_can_be_decorated(received: Received):
    class Handler:
        @llamatelemetry.invocation
        def run(self, value: int) -> tuple[Any, int]:
            work()
            return self, value

        @staticmethod
        @llamatelemetry.invocation
        def run_static(value: int) -> int:
            return value

    handler = Handler()
    assert handler.run(1) == (handler, 1)
    assert Handler.run_static(2) == 2
    assert received.spans() == ["work"]


def test_invocation_without_setup_does_nothing():
    assert llamatelemetry.invocation(function)(1) == 1


def test_decorating_something_else_is_an_error():
    with pytest.raises(TypeError, match="Place it below @classmethod"):
        llamatelemetry.invocation(classmethod(function))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="decorates functions"):
        llamatelemetry.invocation(Received)
