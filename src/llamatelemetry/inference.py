"""Inference engines: one way to use them, whichever they are, and to trace one of your own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.trace import SpanKind

from llamatelemetry import __version__
from llamatelemetry.genai import (
    Call,
    IteratorTap,
    Request,
    Response,
    StreamWatch,
    guard,
    read_parameters,
    read_response,
)
from llamatelemetry.genai.configured import ConfiguredInstrumenter
from llamatelemetry.genai.engine import InferenceEngine
from llamatelemetry.genai.fields import model_name
from llamatelemetry.semconv import normalize_provider
from llamatelemetry.semconv.operations import CHAT, PROVIDER_LLAMA_CPP, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["InferenceEngine", "create_engine", "traced_engine"]

_UNKNOWN_PROVIDER: Final = "_OTHER"


def create_engine(backend: str, **options: Any) -> InferenceEngine:
    """Make an engine that is traced.

    ====================  ==========================================================
    ``backend``           the engine, and what ``options`` are
    ====================  ==========================================================
    ``"llama.cpp"``       `LlamaCppClient`: ``base_url``, ``api_key``, ``model``, ...
    ``"transformers"``    `TransformersBackend`: ``model_name_or_path``, ``device``, ...
    ====================  ==========================================================

    Raises:
        ValueError: there is no such backend.
        ImportError: what the backend needs is not installed.
    """
    if normalize_provider(backend) == PROVIDER_LLAMA_CPP:
        from llamatelemetry.llama.client import LlamaCppClient

        return LlamaCppClient(**options)
    if backend == "transformers":
        from llamatelemetry.transformers import TransformersBackend

        return TransformersBackend(**options)
    raise ValueError(f"no backend {backend!r}; accepted: 'llama.cpp', 'transformers'")


def traced_engine(engine: InferenceEngine, *, provider: str | None = None) -> InferenceEngine:
    """Give an engine that does what ``engine`` does and records each call as one span.

    The span is that of work in this process. Tokens and timings are on it where the reply tells
    them, or a client that is traced itself and that the engine asks. Everything else of the
    engine stays reachable. An engine that records its own calls is given back as it is.

    Args:
        engine: any object with ``generate``, ``chat`` and ``model_name``.
        provider: who made the engine, as ``gen_ai.provider.name``.

    Raises:
        TypeError: something of an engine is missing.
    """
    missing = [name for name in ("generate", "chat", "model_name") if not hasattr(engine, name)]
    if missing:
        raise TypeError(f"{type(engine)!r} is no inference engine: it lacks {', '.join(missing)}")
    if getattr(engine, "records_its_calls", False):
        return engine
    return TracedEngine(engine, provider)


_GENERATE: Final = ("prompt", "max_tokens", "temperature", "stop", "repetition_penalty")
_CHAT: Final = ("messages", "max_tokens", "temperature")


class TracedEngine:
    """An engine around another one, which records its calls."""

    records_its_calls = True

    def __init__(self, engine: InferenceEngine, provider: str | None) -> None:
        self._engine = engine
        self._provider = _UNKNOWN_PROVIDER if provider is None else normalize_provider(provider)
        self._instrumenter = ConfiguredInstrumenter(__name__, __version__)

    @property
    def model_name(self) -> str:
        """The engine's model."""
        return self._engine.model_name

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Continue a text, by the engine: with what is given here, and its own defaults."""
        given = dict(zip(_GENERATE, args, strict=False)) | kwargs
        given["stop"] = given.pop("stop_sequences", given.get("stop"))
        return self._run(TEXT_COMPLETION, given, lambda: self._engine.generate(*args, **kwargs))

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """Answer messages, by the engine: with what is given here, and its own defaults."""
        given = dict(zip(_CHAT, args, strict=False)) | kwargs
        return self._run(CHAT, given, lambda: self._engine.chat(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name == "_engine":  # while a copy is being made, before it has one
            raise AttributeError(name)
        return getattr(self._engine, name)

    def _run(self, operation: str, given: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        call = self._start(operation, given)
        if call is None:
            return work()
        token = call.activate()
        try:
            result = work()
        except BaseException as error:
            call.deactivate(token)
            call.fail(error)
            raise
        call.deactivate(token)
        if isinstance(result, Iterator):
            call.request.stream = True
            return IteratorTap(cast("Iterator[Any]", result), StreamWatch(call))
        call.finish(_read(result))
        return result

    def _start(self, operation: str, given: Mapping[str, Any]) -> Call | None:
        try:
            request = Request(
                operation=operation,
                provider=self._provider,
                model=model_name(self._engine.model_name),
                parameters=read_parameters(given),
            )
            call = self._instrumenter.get().start(request, SpanKind.INTERNAL)
        except Exception as error:
            guard.report("starting a call of an engine", error)
            return None
        if call is not None:
            call.begin_attempt()
        return call


def _read(result: Any) -> Response:
    """Read a chat completion; a text says nothing of itself."""
    try:
        return read_response(result) if isinstance(result, dict) else Response()
    except Exception as error:
        guard.report("reading the reply of an engine", error)
        return Response()
