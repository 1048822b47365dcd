"""Count the input tokens of a prompt, with what the server under test offers.

| Server                                | Number of tokens                          |
|---------------------------------------|-------------------------------------------|
| llama.cpp                             | `/apply-template` and `/tokenize`: exact  |
| vLLM, and servers compatible with it  | `/tokenize` with messages: exact          |
| others that return `usage`            | estimated from the usage of two requests  |
| others                                | one per word                              |

A proxy may expose nothing but `/v1`, so any server may need an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench.targets.target import connection_options, openai_class, server_kind
from llamatelemetry.genai import as_count, as_list, as_str, get_field
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from llamatelemetry.llama import LlamaCppClient

LengthOf = Callable[[str], int]

# Like the random prefix with which the driver keeps a prompt out of the prompt cache.
_PREFIX: Final = "[1a2b3c4d] "
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How to find the number of input tokens of a prompt, the chat template included.

    Attributes:
        method: The method in words, for reports.
        length_of: Function that counts the tokens of a prompt; `None` if it can only be estimated.
        one_word: Estimated number of tokens of a prompt of one word.
        per_word: Estimated number of tokens of each further word.
    """

    method: str
    length_of: LengthOf | None = None
    one_word: int = 1
    per_word: float = 1.0

    def words_for(self, tokens: int) -> int:
        """Return the estimated number of words of a prompt of so many tokens."""
        return 1 + round((tokens - self.one_word) / self.per_word)


@contextmanager
def token_counter(client: Any, model: str | None, words: Sequence[str]) -> Generator[TokenCounter]:
    """Yield the best counter that a server offers. `words` is a prompt of the wanted length."""
    if openai_class(client) is None:
        yield _counter(_Llama(client), words)
    elif openai_class(client) == "OpenAI":
        yield _counter(_OpenAI(client, model), words)
    else:
        import openai

        # Without an event loop, and without connections that belong to one.
        http = openai.DefaultHttpxClient(**connection_options(str(client.base_url)))
        options: dict[str, Any] = {"api_key": client.api_key, "base_url": client.base_url}
        with openai.OpenAI(**options, http_client=http) as synchronous:
            yield _counter(_OpenAI(synchronous, model), words)


def _counter(server: _Llama | _OpenAI, words: Sequence[str]) -> TokenCounter:
    for method, length_of in server.exact():
        if _attempt(length_of, words[0]) is not None:
            return TokenCounter(method, length_of)
    one = _attempt(server.by_usage, words[0])
    many = _attempt(server.by_usage, " ".join(words)) if one is not None else None
    if one is None or many is None or len(words) < 2 or many <= one:
        return TokenCounter("one word counted as one token")
    per_word = (many - one) / (len(words) - 1)
    return TokenCounter("estimated from the usage of two requests", None, one, per_word)


def _attempt(count: Callable[[str], Any], text: str) -> int | None:
    try:
        return as_count(count(text))
    except Exception:  # the errors of the client libraries vary, as do the responses of proxies
        return None


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class _Llama:
    """A llama.cpp server, through `LlamaCppClient`."""

    def __init__(self, client: LlamaCppClient) -> None:
        self._client = client

    def exact(self) -> Iterator[tuple[str, LengthOf]]:
        yield "counted with /apply-template and /tokenize", self._length_of

    def _length_of(self, text: str) -> int:
        prompt = self._client.apply_template(_messages(text))
        return len(self._client.tokenize(prompt, add_special=True))

    def by_usage(self, text: str) -> Any:
        return self._client.chat(_messages(text), 1).usage.prompt_tokens


class _OpenAI:
    """Any OpenAI-compatible server, through a client of the openai library."""

    def __init__(self, client: Any, model: str | None) -> None:
        self._client = client.with_options(timeout=_TIMEOUT_S)
        self._root = str(client.base_url).rstrip("/").removesuffix("/v1")
        listed = self._first_model()
        self._model = model or as_str(get_field(listed, "id")) or ""
        is_llama = server_kind(listed) == PROVIDER_LLAMA_CPP
        self._prefix = "" if is_llama else _PREFIX

    def exact(self) -> Iterator[tuple[str, LengthOf]]:
        yield "counted with /tokenize", self._by_vllm
        yield "counted with /apply-template and /tokenize", self._by_llama_cpp

    def by_usage(self, text: str) -> Any:
        create = self._client.chat.completions.create
        request: dict[str, Any] = {
            "model": self._model,
            "messages": _messages(self._prefix + text),
        }
        try:
            response = create(**request, max_tokens=1)
        except Exception:
            # OpenAI's newer models know the limit only by this name.
            response = create(**request, max_completion_tokens=16)
        return response.usage.prompt_tokens

    def _by_vllm(self, text: str) -> Any:
        body = {"model": self._model, "messages": _messages(self._prefix + text)}
        return get_field(self._post("/tokenize", body), "count")

    def _by_llama_cpp(self, text: str) -> int:
        messages = _messages(self._prefix + text)
        prompt = get_field(self._post("/apply-template", {"messages": messages}), "prompt")
        body = {"content": prompt, "add_special": True}
        return len(self._post("/tokenize", body)["tokens"])

    def _post(self, path: str, body: Any) -> Any:
        client = self._client.with_options(max_retries=0)
        return client.post(f"{self._root}{path}", cast_to=object, body=body)

    def _first_model(self) -> Any:
        try:
            return next(iter(as_list(get_field(self._client.models.list(), "data"))), None)
        except Exception:  # not every server lists its models
            return None
