"""A complete llamatelemetry plugin: it records `ollama.Client.chat`, plain and streamed."""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llamatelemetry import genai


class OllamaInstrumentor(BaseInstrumentor):
    """Records each call of `ollama.Client.chat` as one span, with metrics and engine timings."""

    def instrumentation_dependencies(self) -> tuple[str, ...]:
        """Return the supported versions of ollama."""
        return ("ollama >= 0.4, < 1",)

    def _instrument(self, **kwargs: Any) -> None:
        self._instrumenter = genai.plugin_instrumenter(__name__, "0.1.0", kwargs)
        point = genai.PatchPoint("ollama._client", "Client.chat", self._chat)
        self._table = genai.PatchTable([point])
        self._table.apply()  # Now, or when the application imports ollama.

    def _uninstrument(self, **_kwargs: Any) -> None:
        self._table.revert()

    def _chat(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        call = None
        try:
            call = self._instrumenter.start(_request(client, args, kwargs))
        except Exception as error:
            genai.internal_errors.log_once("starting a call of ollama", error)
        if call is None:  # Suppressed, already recorded by another plugin, or failed above.
            return wrapped(*args, **kwargs)
        token = call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        finally:
            call.deactivate(token)
        try:
            if call.request.stream:
                chunks = _Chunks(call.content_max_chars)
                return genai.StreamWrapper(result, genai.StreamObserver(call, chunks))
            call.finish(_response(result, result.message.content))
        except Exception as error:
            genai.internal_errors.log_once("reading a response of ollama", error)
            call.finish(genai.Response())
        return result


class _Chunks:
    """Accumulator of a stream. The last chunk has the counts and timings."""

    def __init__(self, content_max_chars: int | None) -> None:
        self.model: str | None = None
        self._max_chars = content_max_chars or 0  # `None` if content is not recorded.
        self._text = ""
        self._last: Any = None

    def add(self, chunk: Any) -> bool:
        """Add a chunk. Return whether it has output of the model."""
        self._last, self.model = chunk, chunk.model
        if len(self._text) < self._max_chars:
            self._text += chunk.message.content or ""
        return bool(chunk.message.content)

    def response(self) -> genai.Response:
        """Return the response that the chunks so far amount to."""
        return genai.Response() if self._last is None else _response(self._last, self._text)


def _request(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> genai.Request:
    body = dict(zip(("model", "messages"), args, strict=False)) | kwargs
    url = client._client.base_url
    return genai.Request(
        operation="chat",
        provider="ollama",
        model=genai.as_str(body.get("model")),
        server=genai.server_of(url.scheme, url.host, url.port),
        stream=bool(body.get("stream")),
        parameters=genai.parse_parameters(dict(body.get("options") or {})),
        read_content=lambda: genai.parse_chat_request(body),  # Runs only if content is recorded.
    )


def _response(reply: Any, text: str | None) -> genai.Response:
    reason = genai.as_str(reply.done_reason)
    choice = {"message": {"content": text}, "finish_reason": reason}
    response = genai.Response(
        model=genai.as_str(reply.model),
        finish_reasons=() if reason is None else (reason,),
        usage=genai.Usage(reply.prompt_eval_count, reply.eval_count),
        read_content=lambda: genai.parse_choices([choice]),
    )
    if reply.prompt_eval_duration is not None and reply.eval_duration is not None:
        response.timings = genai.EngineTimings(
            prompt_tokens=reply.prompt_eval_count,
            prefill_ms=reply.prompt_eval_duration / 1e6,
            predicted_tokens=reply.eval_count,
            decode_ms=reply.eval_duration / 1e6,
            provider="ollama",
        )
    return response
