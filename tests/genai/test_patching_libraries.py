"""Every patch point of the three plugins, compared with the unpatched library."""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib.util
import inspect
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
import requests
import urllib3

from tests.support import payloads
from tests.support.byte_server import plain, scripted
from tests.support.embedded_llama_server import make_embedded_server
from tests.support.patch_points import INSTRUMENTORS, POINTS, Point, make_bedrock_client


def make_openai_client(name: str) -> Any:
    return getattr(importlib.import_module("openai"), name)(api_key="k")


def make_model() -> Any:
    from tests.support.transformers_models import llama

    return llama()


def make_text_pipeline() -> Any:
    from tests.support.transformers_models import make_pipeline

    return make_pipeline("text-classification", None)


def make_aiohttp_session() -> Any:
    async def make() -> Any:
        session = aiohttp.ClientSession()
        await session.close()
        return session

    return asyncio.run(make())


# Functions that create an instance to bind each method to. llama-cpp-python is omitted, because
# its build takes minutes.
INSTANCES: dict[str, Callable[[], Any]] = {
    "openai._client:OpenAI": lambda: make_openai_client("OpenAI"),
    "openai._client:AsyncOpenAI": lambda: make_openai_client("AsyncOpenAI"),
    "openai.lib.bedrock:BedrockOpenAI": lambda: make_bedrock_client("BedrockOpenAI"),
    "openai.lib.bedrock:AsyncBedrockOpenAI": lambda: make_bedrock_client("AsyncBedrockOpenAI"),
    "httpx._client:Client": lambda: importlib.import_module("httpx").Client(),
    "httpx._client:AsyncClient": lambda: importlib.import_module("httpx").AsyncClient(),
    "httpx2._client:Client": lambda: importlib.import_module("httpx2").Client(),
    "httpx2._client:AsyncClient": lambda: importlib.import_module("httpx2").AsyncClient(),
    "requests.sessions:Session": requests.Session,
    "aiohttp.client:ClientSession": make_aiohttp_session,
    "urllib3.connectionpool:HTTPConnectionPool": lambda: urllib3.HTTPConnectionPool("127.0.0.1"),
    "urllib3.poolmanager:PoolManager": urllib3.PoolManager,
    "xllamacpp.xllamacpp:Server": make_embedded_server,
    "transformers.generation.utils:GenerationMixin": make_model,
    "transformers.pipelines.base:Pipeline": make_text_pipeline,
}
COMPONENTS = {"xllamacpp": "xllamacpp", "transformers": "transformers", "llama_cpp": "llama_cpp"}


def point_parameter(point: Point) -> Any:
    component = COMPONENTS.get(point.module.partition(".")[0])
    marks = () if component is None else (pytest.mark.needs(component),)
    return pytest.param(point, id=f"{point.module.partition('.')[0]}-{point.path}", marks=marks)


each_point = pytest.mark.parametrize("point", [point_parameter(point) for point in POINTS])


@contextmanager
def instrumented() -> Iterator[None]:
    for instrumentor in INSTRUMENTORS:
        instrumentor().instrument()
    try:
        yield
    finally:
        for instrumentor in INSTRUMENTORS:
            instrumentor().uninstrument()


def pickled(value: Any) -> bytes | str:
    # Python functions and extension functions raise different errors.
    try:
        return pickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError):
        return "cannot be pickled"


def outcome_of(operation: Callable[[], Any]) -> str:
    """Return the result or the exception of an operation, without memory addresses."""
    try:
        text = repr(operation())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def describe(function: Any) -> dict[str, Any]:
    """Return the properties of a function that an application can inspect without a call."""
    kinds = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
    return {
        "name": function.__name__,
        "doc": function.__doc__,
        "annotations": getattr(function, "__annotations__", None),
        "signature": inspect.signature(function),
        "autospec": outcome_of(lambda: inspect.signature(mock.create_autospec(function))),
        "source": outcome_of(lambda: inspect.getsource(function)),
        "is coroutine function": inspect.iscoroutinefunction(function),
        "is generator function": inspect.isgeneratorfunction(function),
        "is a": [kind.__name__ for kind in kinds if isinstance(function, kind)],
        "is callable": callable(function),
    }


def describe_names(function: Any) -> dict[str, Any]:
    return {
        "qualified name": function.__qualname__,
        "module": function.__module__,
        "text": outcome_of(lambda: function),
    }


@each_point
def test_patched_function_looks_like_original(point: Point) -> None:
    unpatched, unpatched_names = describe(point.from_class()), describe_names(point.from_class())
    is_inherited = "." in point.path and point.path != point.from_class().__qualname__
    with instrumented():
        assert hasattr(point.in_library(), "_self_wrapper")
        patched = point.from_class()
        assert describe(patched) == unpatched
        if is_inherited:
            # pickle looks up a function by this name; the old name refers to the unpatched function.
            assert patched.__qualname__ == point.path
        else:
            assert describe_names(patched) == unpatched_names
    assert describe(point.from_class()) == unpatched
    assert describe_names(point.from_class()) == unpatched_names


@each_point
def test_patched_function_is_pickled_and_copied_by_reference(point: Point) -> None:
    original = point.from_class()
    with instrumented():
        patched = point.from_class()
        assert copy.copy(patched) is patched
        assert copy.deepcopy(patched) is patched
        data = pickle.dumps(patched)
        assert pickle.loads(data) == patched
        partial = pickle.loads(pickle.dumps(functools.partial(patched, 1)))
        assert partial.func == patched
    assert b"llamatelemetry" not in data
    assert pickle.loads(data) == original


def describe_bound_method(point: Point, instance: Any) -> dict[str, Any]:
    method = point.bound(instance)
    return {
        **describe(method),
        "qualified name": method.__qualname__.rpartition(".")[2],
        "self": method.__self__ is instance,
        "equal": method == point.bound(instance),
        "hash": hash(method) == hash(point.bound(instance)),
        "size of set": len({method, point.bound(instance)}),
        "pickled": pickled(method),
        "copied": outcome_of(lambda: copy.copy(method) == method),
        "deep-copied": outcome_of(lambda: copy.deepcopy(method).__name__),
        "deep-copied self": outcome_of(lambda: copy.deepcopy(method).__self__ is instance),
        "partial": pickled(functools.partial(method, 1)),
    }


# Copying a client of openai fails, and `__del__` of the incomplete copy raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "point",
    [point_parameter(point) for point in POINTS if not point.module.startswith("llama_cpp")],
)
def test_patched_bound_method_behaves_like_original(point: Point) -> None:
    instance = INSTANCES[point.owner]()
    unpatched = describe_bound_method(point, instance)
    with instrumented():
        assert describe_bound_method(point, instance) == unpatched


# aiohttp discourages subclasses of its session, but applications have them.
@pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning")
@each_point
def test_subclass_can_override_patched_method(point: Point) -> None:
    with instrumented():
        class_name, _, name = point.path.partition(".")
        module = importlib.import_module(point.module)
        base = type(point.path, (getattr(module, class_name),), {})

        def override(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(super(subclass, self), name)

        subclass: Any = type("Subclass", (base,), {name: override})
        assert vars(subclass)[name] is override
        assert inspect.signature(getattr(base, name)) == inspect.signature(point.from_class())


BARE_LOADER = """
import importlib.abc, pickle, sys
class BlockImports(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("llamatelemetry", "wrapt")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, BlockImports())
for data in pickle.load(open(sys.argv[1], "rb")):
    print(pickle.loads(data).__name__)
"""


def load_in_bare_process(path: Path, functions: list[Any]) -> list[str]:
    """Unpickle the functions in a process that cannot import llamatelemetry or wrapt."""
    path.write_bytes(pickle.dumps([pickle.dumps(function) for function in functions]))
    command = [sys.executable, "-c", BARE_LOADER, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_pickled_functions_load_in_process_without_llamatelemetry(tmp_path: Path) -> None:
    with instrumented():
        functions = [
            p.from_class()
            for p in POINTS
            if p.module.startswith(("openai", "http", "req", "urllib3", "aiohttp"))
        ]
        functions.append(requests.Session().send)
        assert load_in_bare_process(tmp_path / "pickles", functions) == [
            function.__name__ for function in functions
        ]


@pytest.mark.slow
@pytest.mark.needs("transformers")
def test_pickled_model_methods_load_in_process_without_llamatelemetry(tmp_path: Path) -> None:
    with instrumented():
        model = make_model()
        functions = [model.generate, type(model).generate, model._get_logits_processor]
        assert load_in_bare_process(tmp_path / "pickles", functions) == [
            "generate",
            "generate",
            "_get_logits_processor",
        ]


def test_spawned_process_runs_patched_bound_method() -> None:
    with instrumented(), scripted(plain(json.dumps(payloads.chat()).encode())) as server:
        session = requests.Session()
        url = f"{server.origin}/v1/chat/completions"
        body = {"model": "smol", "messages": payloads.MESSAGES}
        request = session.prepare_request(requests.Request("POST", url, json=body))
        process = multiprocessing.get_context("spawn").Process(target=session.send, args=(request,))
        process.start()
        process.join(30)
        assert process.exitcode == 0
    assert len(server.requests) == 1


def test_copied_method_is_still_patched_and_bound_to_copy() -> None:
    session = requests.Session()
    with instrumented():
        assert copy.copy(session.send) == session.send
        method = copy.deepcopy(session.send)
        assert method.__self__ is not session
        assert method.__func__ is requests.Session.send
        assert hasattr(method.__func__, "_self_wrapper")
