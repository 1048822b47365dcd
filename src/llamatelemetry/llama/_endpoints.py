"""The endpoints of a llama.cpp server: what is sent to each, and how its reply is read.

Pure functions: nothing here talks to a server or knows whether a client is asynchronous. An
inference endpoint also says how its replies are read for the span.
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
from llamatelemetry.llama._responses import ChatResponse
from llamatelemetry.semconv.operations import CHAT, EMBEDDINGS, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai import Accumulator, Content, Response

T = TypeVar("T")

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inference:
    """What an endpoint at which a model runs is on a span: an operation, or a task without one.

    Attributes:
        operation: the operation, or else
        task: what it does that has none of its own.
        read: reads the JSON of a plain reply.
        fold: makes what folds a stream, keeping so many characters of each text, or none.
        read_content: reads what is said in a request; ``None`` where nothing is.
        choice_count: how many answers are asked for, to all prompts.
    """

    operation: str | None = None
    task: str | None = None
    read: Callable[[Any], Response] = parse_response
    fold: Callable[[int | None], Accumulator] = ChatAccumulator
    read_content: Callable[[Mapping[str, Any]], Content] | None = None
    choice_count: int = 1


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One request, and what its reply becomes.

    Attributes:
        method: of HTTP.
        path: below the server's base URL.
        read: makes the result of the reply, which is JSON unless ``is_text``.
        body: JSON of the request.
        query: parameters in the URL.
        inference: how it is recorded; ``None`` for the helpers, which are not.
        stream: whether the reply is a stream of events.
        is_text: whether the reply is plain text.
        waits: whether a server that is loading is waited for.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: dict[str, Any] | None = None
    query: dict[str, str] | None = None
    inference: Inference | None = None
    stream: bool = False
    is_text: bool = False
    waits: bool = True


def _same(reply: Any) -> Any:
    return reply


def _given(**members: Any) -> dict[str, Any]:
    """What was given: ``None`` leaves a setting to the server."""
    return {name: value for name, value in members.items() if value is not None}


# --- inference ----------------------------------------------------------------------------

_TEXT: Final = {"operation": TEXT_COMPLETION, "read_content": parse_completion_request}
_OTHER_LIMITS: Final = ("max_completion_tokens", "n_predict")


def chat(
    messages: Iterable[Message],
    max_tokens: int | None,
    temperature: float | None,
    stream: bool,
    sampling: Mapping[str, Any],
) -> Exchange[ChatResponse]:
    """``POST /v1/chat/completions``."""
    if any(sampling.get(name) is not None for name in _OTHER_LIMITS):
        max_tokens = None
    body = _given(**{"max_tokens": max_tokens, "temperature": temperature, **sampling})
    body["messages"] = list(messages)
    if stream:
        body["stream"] = True
    inference = Inference(
        CHAT, read_content=parse_chat_request, choice_count=as_count(body.get("n")) or 1
    )
    return Exchange("POST", "/v1/chat/completions", _same, body, inference=inference, stream=stream)


def _native(
    path: str, body: dict[str, Any], stream: bool, read: Callable[[Any], T], **kind: Any
) -> Exchange[T]:
    if stream:
        body["stream"] = True
    answers = as_count(body.get("n_cmpl")) or as_count(body.get("n")) or 1
    inference = Inference(
        **kind,
        read=partial(parse_native_completion, answers_per_prompt=answers),
        fold=partial(LlamaCppAccumulator, answers),
        choice_count=parse_choice_count(body),
    )
    return Exchange("POST", path, read, body, inference=inference, stream=stream)


def complete(prompt: Any, stream: bool, sampling: Mapping[str, Any]) -> Exchange[ChatResponse]:
    """``POST /completion``."""
    body = _given(**{"prompt": prompt, **sampling})
    return _native("/completion", body, stream, _same, **_TEXT)


def infill(
    prefix: str, suffix: str, stream: bool, sampling: Mapping[str, Any]
) -> Exchange[ChatResponse]:
    """``POST /infill``."""
    body = _given(input_prefix=prefix, input_suffix=suffix, **sampling)
    return _native("/infill", body, stream, _same, task="infill")


def generate(
    prompt: str,
    max_tokens: int = 256,
    temperature: float = 0.7,
    stop_sequences: list[str] | None = None,
    repetition_penalty: float = 1.0,
) -> Exchange[str]:
    """Continue a text, and give what was added.

    Args:
        prompt: the text. No chat template is applied.
        max_tokens: how much to add at most.
        temperature: 0 always takes the likeliest token.
        stop_sequences: where to stop; the sequence itself is not given.
        repetition_penalty: over 1, what has occurred becomes less likely.
    """
    body = _given(
        prompt=prompt,
        n_predict=max_tokens,
        temperature=temperature,
        stop=stop_sequences or None,
        repeat_penalty=repetition_penalty,
    )
    return _native("/completion", body, False, _content, **_TEXT)


def _content(reply: Any) -> str:
    return cast("str", reply["content"])


def embed(
    input: str | Sequence[str] | Sequence[int],  # noqa: A002 - the contract's
    **options: Any,
) -> Exchange[ChatResponse]:
    """Give the embedding of a text, or of each of several: ``response.data[0].embedding``.

    Args:
        input: one text or several; or one text as tokens.
        options: further members of the request, such as ``dimensions``.
    """
    body = _given(input=input if isinstance(input, str) else list(input), **options)
    return Exchange("POST", "/v1/embeddings", _same, body, inference=Inference(EMBEDDINGS))


def rerank(
    query: str, documents: Sequence[str], *, top_n: int | None = None, **options: Any
) -> Exchange[ChatResponse]:
    """Score documents by how well they answer a query: ``response.results[0].relevance_score``.

    Args:
        query: the question.
        documents: the texts to be scored; a result names one by its ``index``.
        top_n: how many results at most; all by default.
        options: further members of the request.
    """
    body = _given(query=query, documents=list(documents), top_n=top_n, **options)
    return Exchange("POST", "/v1/rerank", _same, body, inference=Inference(task="rerank"))


# --- helpers ------------------------------------------------------------------------------


def tokenize(
    content: str, *, add_special: bool = False, parse_special: bool = True
) -> Exchange[list[int]]:
    """Give the tokens of a text.

    Args:
        content: the text.
        add_special: put the model's special tokens around it, as for a prompt.
        parse_special: read special tokens that are spelled out in the text.
    """
    body = {"content": content, "add_special": add_special, "parse_special": parse_special}
    return Exchange("POST", "/tokenize", partial(_member, "tokens"), body)


def detokenize(tokens: Sequence[int]) -> Exchange[str]:
    """Give the text of tokens."""
    return Exchange("POST", "/detokenize", partial(_member, "content"), {"tokens": list(tokens)})


def apply_template(messages: Iterable[Message], **options: Any) -> Exchange[str]:
    """Give the prompt that the model's chat template makes of messages.

    Args:
        messages: as for ``chat``.
        options: what else the template can see, such as ``tools``.
    """
    body = {**_given(**options), "messages": list(messages)}
    return Exchange("POST", "/apply-template", partial(_member, "prompt"), body)


def _member(name: str, reply: Any) -> Any:
    return reply[name]


def models() -> Exchange[ChatResponse]:
    """Give what the server can serve: ``response.data[0].id``."""
    return Exchange("GET", "/v1/models", _same)


def props(*, model: str | None = None) -> Exchange[ChatResponse]:
    """Give the server's properties: build, context size, slots, chat template.

    Args:
        model: of which model, when the server is a router.
    """
    return Exchange("GET", "/props", _same, query=_of_model(model))


def slots(*, model: str | None = None) -> Exchange[list[ChatResponse]]:
    """Give what each slot is doing.

    Args:
        model: of which model, when the server is a router.
    """
    return Exchange("GET", "/slots", _same, query=_of_model(model))


def metrics(*, model: str | None = None) -> Exchange[dict[str, float]]:
    """Give the server's counters and gauges by name, without the ``llamacpp:`` in front.

    The server has to be started with ``--metrics``. A name with labels keeps them.

    Args:
        model: of which model, when the server is a router.
    """
    return Exchange("GET", "/metrics", read_metrics, query=_of_model(model), is_text=True)


def _of_model(model: str | None) -> dict[str, str] | None:
    # A router would load a model only to tell its figures.
    return None if model is None else {"model": model, "autoload": "false"}


def read_metrics(text: str) -> dict[str, float]:
    """Read the Prometheus text format; a line that is none of its own is passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        labelled, brace, values = line.rpartition("}")
        name, values = (labelled + brace, values) if brace else (*line.split(" ", 1), "")[:2]
        try:
            found[name.removeprefix("llamacpp:")] = float(values.split()[0])  # then perhaps a time
        except (ValueError, IndexError):
            continue
    return found


def health() -> Exchange[ChatResponse]:
    """Give the server's state, at once: ``{"status": "ok"}``.

    Raises:
        ServerLoadingError: the server is up and loads its model.
    """
    return Exchange("GET", "/health", _same, waits=False)
