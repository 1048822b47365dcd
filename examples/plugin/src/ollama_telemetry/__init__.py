"""A complete llamatelemetry plugin: it traces `ollama.Client.chat`, plain and streamed."""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llamatelemetry.genai import (
    EngineTimings,
    PatchPoint,
    PatchTable,
    Request,
    Response,
    StreamObserver,
    StreamWrapper,
    Usage,
    as_count,
    as_str,
    internal_errors,
    parse_chat_request,
    parse_choices,
    parse_parameters,
    plugin_instrumenter,
    server_of,
)


class OllamaInstrumentor(BaseInstrumentor):
    """Records each call of `ollama.Client.chat` as one span, with metrics and engine timings."""

    def instrumentation_dependencies(self) -> tuple[str, ...]:
        """Return the supported versions of ollama."""
        return ("ollama >= 0.4, < 1",)

    def _instrument(self, **kwargs: Any) -> None:
        self._instrumenter = plugin_instrumenter("ollama_telemetry", "0.1.0", kwargs)
        self._table = PatchTable([PatchPoint("ollama._client", "Client.chat", self._chat)])
        self._table.apply()  # now, or as soon as the application imports ollama

    def _uninstrument(self, **_kwargs: Any) -> None:
        self._table.revert()

    def _chat(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        call = None
        try:
            call = self._instrumenter.start(_request(client, args, kwargs))
        except Exception as error:  # a failure here must not reach the application
            internal_errors.log_once("starting a call of ollama", error)
        if call is None:  # suppressed, or already recorded by another layer
            return wrapped(*args, **kwargs)
        token = call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        finally:
            call.deactivate(token)
        if call.request.stream:
            return StreamWrapper(result, StreamObserver(call, _LastChunk()))
        call.finish(_response(result))
        return result


class _LastChunk:
    """Accumulator: only the last chunk of ollama's streams has figures. It keeps no text."""

    def __init__(self) -> None:
        self.model: str | None = None
        self._last: Any = None

    def add(self, chunk: Any) -> bool:
        self._last, self.model = chunk, chunk.model
        return bool(chunk.message.content)

    def response(self) -> Response:
        return Response() if self._last is None else _response(self._last)


def _request(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    body = dict(zip(("model", "messages"), args, strict=False)) | kwargs
    url = client._client.base_url
    return Request(
        operation="chat",
        provider="ollama",
        model=as_str(body.get("model")),
        server=server_of(url.scheme, url.host, url.port),
        stream=bool(body.get("stream")),
        parameters=parse_parameters(dict(body.get("options") or {})),
        read_content=lambda: parse_chat_request(body),  # runs only if content is recorded
    )


def _response(reply: Any) -> Response:
    reason = as_str(reply.done_reason)
    choice = {"message": reply.message, "finish_reason": reason}
    return Response(
        model=as_str(reply.model),
        finish_reasons=() if reason is None else (reason,),
        usage=Usage(as_count(reply.prompt_eval_count), as_count(reply.eval_count)),
        timings=_timings(reply),
        read_content=lambda: parse_choices([choice]),
    )


def _timings(reply: Any) -> EngineTimings | None:
    """Return what the engine measured, in milliseconds; absent unless both figures are known."""
    if reply.prompt_eval_duration is None or reply.eval_duration is None:
        return None
    return EngineTimings(
        prompt_tokens=as_count(reply.prompt_eval_count),
        prefill_ms=reply.prompt_eval_duration / 1e6,
        predicted_tokens=as_count(reply.eval_count),
        decode_ms=reply.eval_duration / 1e6,
        provider="ollama",
    )
