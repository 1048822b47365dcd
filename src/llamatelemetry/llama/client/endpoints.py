"""The endpoints of a llama.cpp server: the request of each, and how its response is parsed.

These are pure functions for both clients. They send nothing. An inference endpoint also defines
how its responses are parsed for the span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from llamatelemetry.genai import (
    ChatAccumulator,
    LlamaCppAccumulator,
    as_count,
    parse_chat_request,
    parse_choice_count,
    parse_completion_request,
    parse_native_completion,
    parse_response,
)
from llamatelemetry.genai.wire.prometheus import parse_metrics
from llamatelemetry.llama.client.responses import ChatResponse
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai import Accumulator, Content, Response

T = TypeVar("T")

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inference:
    """How the calls of an inference endpoint are recorded.

    An endpoint has an operation name or a task name. The argument of `accumulator` is the maximum
    number of characters of each text to keep; `None` keeps no text.
    """

    operation: str | None = None
    task: str | None = None
    parse: Callable[[Any], Response] = parse_response
    accumulator: Callable[[int | None], Accumulator] = ChatAccumulator
    parse_content: Callable[[Mapping[str, Any]], Content] | None = None
    choice_count: int = 1


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One request, and how its response is parsed: text if `is_text`, else JSON.

    A call without `inference` is not recorded. One that `waits` is retried while the server loads
    its model.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    body: dict[str, Any] | None = None
    query: dict[str, str] | None = None
    inference: Inference | None = None
    stream: bool = False
    is_text: bool = False
    waits: bool = True


def _unchanged(body: Any) -> Any:
    return body


def _without_none(**members: Any) -> dict[str, Any]:
    """Return the members that are not `None`, which stands for the server's default."""
    return {name: value for name, value in members.items() if value is not None}


_TEXT: Final = {"operation": TEXT_COMPLETION, "parse_content": parse_completion_request}
_OTHER_LIMITS: Final = ("max_completion_tokens", "n_predict")


def chat(
    messages: Iterable[Message],
    max_tokens: int | None,
    temperature: float | None,
    stream: bool,
    sampling: Mapping[str, Any],
) -> Exchange[ChatResponse]:
    """Return the exchange of `POST /v1/chat/completions`."""
    if any(sampling.get(name) is not None for name in _OTHER_LIMITS):
        max_tokens = None
    body = _without_none(**{"max_tokens": max_tokens, "temperature": temperature, **sampling})
    body["messages"] = list(messages)
    if stream:
        body["stream"] = True
    inference = Inference(
        CHAT, parse_content=parse_chat_request, choice_count=as_count(body.get("n")) or 1
    )
    return Exchange(
        "POST", "/v1/chat/completions", _unchanged, body, inference=inference, stream=stream
    )


def _native(
    path: str, body: dict[str, Any], stream: bool, parse: Callable[[Any], T], **kind: Any
) -> Exchange[T]:
    if stream:
        body["stream"] = True
    choices = as_count(body.get("n_cmpl")) or as_count(body.get("n")) or 1
    inference = Inference(
        **kind,
        parse=partial(parse_native_completion, answers_per_prompt=choices),
        accumulator=partial(LlamaCppAccumulator, choices),
        choice_count=parse_choice_count(body),
    )
    return Exchange("POST", path, parse, body, inference=inference, stream=stream)


def complete(prompt: Any, stream: bool, sampling: Mapping[str, Any]) -> Exchange[ChatResponse]:
    """Return the exchange of `POST /completion`."""
    body = _without_none(**{"prompt": prompt, **sampling})
    return _native("/completion", body, stream, _unchanged, **_TEXT)


def infill(
    prefix: str, suffix: str, stream: bool, sampling: Mapping[str, Any]
) -> Exchange[ChatResponse]:
    """Return the exchange of `POST /infill`."""
    body = _without_none(input_prefix=prefix, input_suffix=suffix, **sampling)
    return _native("/infill", body, stream, _unchanged, task="infill")


def generate(
    prompt: str,
    max_tokens: int = 256,
    temperature: float = 0.7,
    stop_sequences: list[str] | None = None,
    repetition_penalty: float = 1.0,
) -> Exchange[str]:
    """Return the generated continuation of a text.

    Args:
        prompt: The text. No chat template is applied.
        max_tokens: Maximum number of output tokens.
        temperature: Sampling temperature; 0 selects the most likely token.
        stop_sequences: Sequences that end the generation. They are not part of the result.
        repetition_penalty: Values above 1 make repeated tokens less likely.
    """
    body = _without_none(
        prompt=prompt,
        n_predict=max_tokens,
        temperature=temperature,
        stop=stop_sequences or None,
        repeat_penalty=repetition_penalty,
    )
    return _native("/completion", body, False, _content, **_TEXT)


def _content(body: Any) -> str:
    return cast("str", body["content"])


def embed(
    input: str | Sequence[str] | Sequence[int],  # noqa: A002 - public API
    **options: Any,
) -> Exchange[ChatResponse]:
    """Return the embeddings of texts: `response.data[0].embedding`.

    Args:
        input: One text, several texts, or one text as tokens.
        options: Further members of the request, such as `dimensions`.
    """
    body = _without_none(input=input if isinstance(input, str) else list(input), **options)
    return Exchange("POST", "/v1/embeddings", _unchanged, body, inference=Inference(EMBEDDINGS))


def rerank(
    query: str, documents: Sequence[str], *, top_n: int | None = None, **options: Any
) -> Exchange[ChatResponse]:
    """Return relevance scores of documents: `response.results[0].relevance_score`.

    Args:
        query: The query.
        documents: Texts to score. A result identifies its document by `index`.
        top_n: Maximum number of results; all by default.
        options: Further members of the request.
    """
    body = _without_none(query=query, documents=list(documents), top_n=top_n, **options)
    return Exchange("POST", "/v1/rerank", _unchanged, body, inference=Inference(task="rerank"))


def tokenize(
    content: str, *, add_special: bool = False, parse_special: bool = True
) -> Exchange[list[int]]:
    """Return the tokens of a text.

    Args:
        content: The text.
        add_special: Whether to add the model's special tokens, as for a prompt.
        parse_special: Whether to parse special tokens that are spelled out in the text.
    """
    body = {"content": content, "add_special": add_special, "parse_special": parse_special}
    return Exchange("POST", "/tokenize", partial(_member, "tokens"), body)


def detokenize(tokens: Sequence[int]) -> Exchange[str]:
    """Return the text of tokens."""
    return Exchange("POST", "/detokenize", partial(_member, "content"), {"tokens": list(tokens)})


def apply_template(messages: Iterable[Message], **options: Any) -> Exchange[str]:
    """Return the prompt that the model's chat template produces for messages.

    Args:
        messages: Messages in OpenAI's format.
        options: Other variables of the template, such as `tools`.
    """
    body = {**_without_none(**options), "messages": list(messages)}
    return Exchange("POST", "/apply-template", partial(_member, "prompt"), body)


def _member(name: str, body: Any) -> Any:
    return body[name]


def models() -> Exchange[ChatResponse]:
    """Return the models of the server: `response.data[0].id`."""
    return Exchange("GET", "/v1/models", _unchanged)


def props(*, model: str | None = None) -> Exchange[ChatResponse]:
    """Return the server's properties: build, context size, slots, chat template.

    Args:
        model: Model name, if the server is a router.
    """
    return Exchange("GET", "/props", _unchanged, query=_model_query(model))


def slots(*, model: str | None = None) -> Exchange[list[ChatResponse]]:
    """Return the state of each slot.

    Args:
        model: Model name, if the server is a router.
    """
    return Exchange("GET", "/slots", _unchanged, query=_model_query(model))


def metrics(*, model: str | None = None) -> Exchange[dict[str, float]]:
    """Return the server's counters and gauges by name, without the prefix `llamacpp:`.

    The server must be started with `--metrics`. Labels stay part of the name.

    Args:
        model: Model name, if the server is a router.
    """
    return Exchange("GET", "/metrics", parse_metrics, query=_model_query(model), is_text=True)


def _model_query(model: str | None) -> dict[str, str] | None:
    # Without this a router loads the model only to report its metrics.
    return None if model is None else {"model": model, "autoload": "false"}


def health() -> Exchange[ChatResponse]:
    """Return the server's state without waiting for its model: `{"status": "ok"}`.

    Raises:
        ServerLoadingError: The server is loading its model.
    """
    return Exchange("GET", "/health", _unchanged, waits=False)
