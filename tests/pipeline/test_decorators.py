"""The decorators: spans of decorated functions, and unchanged behavior of the functions."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import json
import pickle
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from llamatelemetry import task, tool, workflow
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, set_active_config
from llamatelemetry.pipeline import agent
from tests.support.recorder import Recorder


@pytest.fixture
def content_on_spans() -> Iterator[None]:
    set_active_config(effective_config(LlamaTelemetryConfig(capture_content="span_only")))
    yield
    set_active_config(None)


@tool
def look_up(city: str, days: int = 1) -> dict[str, object]:
    """Find the weather.

    The description on the span is only the first line.
    """
    return {"city": city, "days": days}


class Weather:
    @task
    def of(self, city: str) -> str:
        return f"{city} by {type(self).__name__}"

    @workflow
    @classmethod
    def everywhere(cls) -> str:
        return cls.__name__

    @task
    @staticmethod
    def nowhere() -> None:
        return None


def current_name() -> str:
    return getattr(trace.get_current_span(), "name", "nothing")


def test_decorator_accepts_all_forms_of_arguments(telemetry: Recorder) -> None:
    @workflow
    def bare() -> str:
        return current_name()

    @workflow("by position", team="a")
    def positional() -> str:
        return current_name()

    @workflow(name="by keyword", team=None)
    def keyword() -> str:
        return current_name()

    @agent()
    def nothing_given() -> str:
        return current_name()

    assert [bare(), positional(), keyword(), nothing_given()] == [
        "invoke_workflow bare",
        "invoke_workflow by position",
        "invoke_workflow by keyword",
        "invoke_agent nothing_given",
    ]
    _, positional_span, keyword_span, _ = telemetry.spans()
    assert (positional_span.attributes or {})["team"] == "a"
    assert "team" not in (keyword_span.attributes or {})


def test_tool_records_description_without_content(telemetry: Recorder) -> None:
    assert look_up("Oslo") == {"city": "Oslo", "days": 1}
    (span,) = telemetry.spans()
    assert span.name == "execute_tool look_up"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "Find the weather.",
    }


@pytest.mark.usefixtures("content_on_spans")
def test_tool_records_arguments_and_result_when_content_is_captured(telemetry: Recorder) -> None:
    look_up("Oslo", days=3)
    (span,) = telemetry.spans()
    attributes = span.attributes or {}
    assert json.loads(str(attributes["gen_ai.tool.call.arguments"])) == {"city": "Oslo", "days": 3}
    assert json.loads(str(attributes["gen_ai.tool.call.result"])) == {"city": "Oslo", "days": 3}


@pytest.mark.usefixtures("content_on_spans")
def test_tool_records_unserializable_and_long_result_as_valid_json(telemetry: Recorder) -> None:
    @tool
    def odd() -> object:
        return [object(), float("nan"), "x" * 100_000]

    odd()
    (span,) = telemetry.spans()
    recorded = json.loads(str((span.attributes or {})["gen_ai.tool.call.result"]))
    assert recorded.startswith('["<object>","nan","xxx')
    assert len(recorded) == 16_384


@pytest.mark.usefixtures("content_on_spans")
async def test_asynchronous_tool_records_arguments_and_result(telemetry: Recorder) -> None:
    @tool
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    assert await add(1, b=2) == 3
    (span,) = telemetry.spans()
    assert (span.attributes or {})["gen_ai.tool.call.result"] == "3"
    assert (span.attributes or {})["gen_ai.tool.call.arguments"] == '{"a":1,"b":2}'


def test_decorators_work_on_methods_of_every_kind(telemetry: Recorder) -> None:
    weather = Weather()
    assert weather.of("Oslo") == "Oslo by Weather"
    assert Weather.everywhere() == weather.everywhere() == "Weather"
    assert Weather.nowhere() is None
    assert [span.name for span in telemetry.spans()] == [
        "Weather.of",
        "invoke_workflow Weather.everywhere",
        "invoke_workflow Weather.everywhere",
        "Weather.nowhere",
    ]


def test_decorated_function_keeps_signature_kind_and_pickling() -> None:
    def plain(a: int, *, b: str = "x") -> bool:
        """Return a boolean."""
        return bool(a) and bool(b)

    async def coroutine() -> None: ...
    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    decorated = task(plain)
    assert inspect.signature(decorated) == inspect.signature(plain)
    assert (decorated.__name__, decorated.__doc__) == ("plain", "Return a boolean.")
    assert inspect.isfunction(decorated)
    assert inspect.iscoroutinefunction(task(coroutine))
    assert asyncio.iscoroutinefunction(task(coroutine))
    assert inspect.isgeneratorfunction(task(generator))
    assert inspect.isasyncgenfunction(task(async_generator))
    assert inspect.isgenerator(task(generator)())
    assert inspect.isasyncgen(task(async_generator)())
    assert pickle.loads(pickle.dumps(look_up)) is look_up


def test_decorated_functions_and_methods_are_copied_as_plain_ones_are() -> None:
    weather = Weather()
    weather.country = "Norway"  # type: ignore[attr-defined]
    for copied in (copy.copy, copy.deepcopy):
        assert copied({"tool": look_up})["tool"] is look_up
        assert copied([look_up])[0] is look_up
        for method in (Weather.everywhere, weather.everywhere, Weather.nowhere, Weather.of):
            assert copied(method) == method
    assert copy.copy(weather.of).__self__ is weather  # type: ignore[attr-defined]
    of_copy = copy.deepcopy(weather.of)
    assert of_copy("Oslo") == "Oslo by Weather"
    assert of_copy.__self__ is not weather  # type: ignore[attr-defined]
    assert of_copy.__self__.country == "Norway"  # type: ignore[attr-defined]


def test_decorated_methods_are_pickled_as_plain_ones_are() -> None:
    weather = Weather()
    weather.country = "Norway"  # type: ignore[attr-defined]
    of = pickle.loads(pickle.dumps(weather.of))
    assert of("Oslo") == "Oslo by Weather"
    assert of.__self__.country == "Norway"
    for method in (Weather.everywhere, weather.everywhere, Weather.nowhere, weather.nowhere):
        assert pickle.loads(pickle.dumps(method))() == method()
    assert pickle.loads(pickle.dumps(Weather.of))(weather, "Oslo") == "Oslo by Weather"


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async generator"])
def test_decorated_function_raises_for_wrong_arguments_at_call(
    telemetry: Recorder, kind: str
) -> None:
    def plain(a: int) -> None: ...
    async def coroutine(a: int) -> None: ...
    def generator(a: int) -> Iterator[int]:
        yield a

    async def async_generator(a: int) -> AsyncIterator[int]:
        yield a

    functions = {
        "plain": plain,
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
    }
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        task(functions[kind])()  # type: ignore[call-arg]


@pytest.mark.parametrize("target", [Weather, 3, [1]], ids=["class", "number", "list"])
def test_decorator_rejects_object_that_is_not_a_function(target: object) -> None:
    with pytest.raises(TypeError, match="A decorated object must be a function or a method"):
        workflow(target)  # type: ignore[arg-type]


def test_partial_is_named_after_its_function(telemetry: Recorder) -> None:
    assert task(partial(look_up, "Oslo"))() == {"city": "Oslo", "days": 1}
    assert telemetry.spans()[-1].name == "look_up"


def test_partial_has_the_description_of_its_function(telemetry: Recorder) -> None:
    tool(partial(look_up, "Oslo"))()
    attributes = telemetry.spans()[-1].attributes or {}
    assert attributes["gen_ai.tool.description"] == "Find the weather."


async def test_object_with_call_method_is_traced_as_that_method_is(telemetry: Recorder) -> None:
    class Coroutine:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            return current_name()

    class Generator:
        def __call__(self) -> Iterator[str]:
            yield current_name()

    class AsyncGenerator:
        async def __call__(self) -> AsyncIterator[str]:
            yield current_name()

    class Plain:
        def __call__(self) -> str:
            return current_name()

    assert await task("a")(Coroutine())() == "a"
    assert list(task("b")(Generator())()) == ["b"]
    assert [name async for name in task("c")(AsyncGenerator())()] == ["c"]
    assert task("d")(Plain())() == "d"
    assert [span.name for span in telemetry.spans()] == ["a", "b", "c", "d"]


def test_generator_span_is_current_only_while_generator_runs(telemetry: Recorder) -> None:
    received: list[object] = []

    @task
    def numbers(last: int) -> Iterator[object]:
        for n in range(last):
            got = yield n, current_name()
            received.append(got)
        return "the end"

    iterator = numbers(2)
    assert telemetry.spans() == []
    assert next(iterator) == (0, "numbers")
    assert current_name() == "nothing"
    assert iterator.send("sent") == (1, "numbers")
    with pytest.raises(StopIteration) as stop:
        next(iterator)
    assert stop.value.value == "the end"
    assert received == ["sent", None]
    assert [span.name for span in telemetry.spans()] == ["numbers"]


def test_generator_receives_thrown_exception(telemetry: Recorder) -> None:
    @task
    def careful() -> Iterator[str]:
        try:
            yield "first"
        except KeyError:
            yield "caught"

    iterator = careful()
    next(iterator)
    assert iterator.throw(KeyError("k")) == "caught"  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="unhandled"):
        iterator.throw(OSError("unhandled"))  # type: ignore[attr-defined]
    (span,) = telemetry.spans()
    assert (span.attributes or {})["error.type"] == "OSError"


@pytest.mark.parametrize("end", ["close", "drop"])
def test_abandoned_generator_ends_once_without_error(telemetry: Recorder, end: str) -> None:
    cleaned: list[str] = []

    @task
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(current_name())

    iterator = numbers()
    next(iterator)
    if end == "close":
        iterator.close()  # type: ignore[attr-defined]
    del iterator
    gc.collect()
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert cleaned == ["numbers"]


def test_unstarted_generator_records_no_span(telemetry: Recorder) -> None:
    @task
    def numbers() -> Iterator[int]:
        yield 1

    numbers()
    assert telemetry.spans() == []


def test_generator_that_ignores_close_raises_runtime_error(telemetry: Recorder) -> None:
    @task
    def stubborn() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    iterator = stubborn()
    next(iterator)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        iterator.close()  # type: ignore[attr-defined]


async def test_asynchronous_generator_span_is_current_only_while_it_runs(
    telemetry: Recorder,
) -> None:
    @task
    async def numbers(last: int) -> AsyncIterator[tuple[int, str]]:
        for n in range(last):
            await asyncio.sleep(0)
            yield n, current_name()

    seen = [(item, current_name()) async for item in numbers(2)]
    assert seen == [((0, "numbers"), "nothing"), ((1, "numbers"), "nothing")]
    assert [span.name for span in telemetry.spans()] == ["numbers"]


async def test_asynchronous_generator_closed_early_ends_without_error(telemetry: Recorder) -> None:
    cleaned: list[str] = []

    @task
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            cleaned.append(current_name())

    iterator = numbers()
    assert await anext(iterator) == 1
    await iterator.aclose()  # type: ignore[attr-defined]
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert cleaned == ["numbers"]


async def test_asynchronous_generator_records_error(telemetry: Recorder) -> None:
    @task
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        [item async for item in numbers()]
    (span,) = telemetry.spans()
    assert (span.attributes or {})["error.type"] == "ValueError"


async def test_coroutine_records_error(telemetry: Recorder) -> None:
    @workflow
    async def answer() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await answer()
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.ERROR


def test_unawaited_coroutine_warns_with_its_own_name(telemetry: Recorder) -> None:
    @task
    async def forgotten() -> None: ...

    attributes: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # catch_warnings(record=True) would keep the coroutine alive and delay its warning.
        warnings.showwarning = lambda message, *_: attributes.add(str(message))
        forgotten()
    (message,) = attributes
    assert message.endswith("forgotten' was never awaited")
    assert telemetry.spans() == []
