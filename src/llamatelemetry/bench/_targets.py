"""What is asked: an OpenAI client, a llama.cpp client, or any inference engine, behind one face.

Retries are switched off wherever a client has them: a request that failed and was repeated
would be measured as a slow one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from llamatelemetry.bench._wire import watch_llama, watch_openai
from llamatelemetry.genai import InferenceEngine, as_count, as_list, as_str, get_field, server_of
from llamatelemetry.semconv.operations import (
    PROVIDER_HUGGINGFACE,
    PROVIDER_LLAMA_CPP,
    PROVIDER_OPENAI,
)

if TYPE_CHECKING:
    from llamatelemetry.bench._observation import Observation
    from llamatelemetry.bench.prompts import Message
    from llamatelemetry.genai import Server
    from llamatelemetry.llama import AsyncLlamaCppClient

_UNKNOWN_PROVIDER: Final = "_OTHER"
_TRANSFORMERS: Final = "llamatelemetry.transformers"
_IGNORES_EOS: Final = frozenset({PROVIDER_LLAMA_CPP, "vllm", "sglang"})
# How servers spell themselves in `owned_by` of their list of models.
_KINDS: Final = {"llamacpp": PROVIDER_LLAMA_CPP, "vllm": "vllm", "sglang": "sglang"}


@dataclass(frozen=True, slots=True)
class Question:
    """One request as it is to be sent."""

    model: str
    messages: list[Message]
    max_tokens: int
    seed: int
    cold: bool


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of what answers.

    Attributes:
        kind: llama.cpp, vllm, ...; ``None`` when it is not known.
        slots: how many requests it works on at once.
        fingerprint: what must be equal in two runs that are compared.
        busy: requests that it was working on for others.
    """

    kind: str | None = None
    slots: int | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict[str, Any])
    busy: int | None = None

    @property
    def ignores_eos(self) -> bool:
        """Whether it can be told to go on to the last token."""
        return self.kind in _IGNORES_EOS

    @property
    def skips_cache(self) -> bool:
        """Whether it can be told to leave its prompt cache alone."""
        return self.kind == PROVIDER_LLAMA_CPP


class Target(Protocol):
    """What a benchmark asks."""

    is_blocking: bool
    is_streaming: bool
    has_queue: bool
    provider: str
    server: Server | None
    facts: ServerFacts

    async def open(self) -> None:
        """Connect, and learn what is there."""
        ...

    async def counters(self) -> dict[str, float]:
        """Give the engine's own counters; empty where it has none."""
        ...

    def ask(self, question: Question, seen: Observation) -> Any:
        """Make one request; an awaitable unless the target blocks."""
        ...

    async def close(self) -> None:
        """Close what was opened here."""
        ...


def make_target(client: Any) -> Target:
    """Give the target for whatever a caller wants measured.

    Raises:
        TypeError: it is nothing that can be asked.
    """
    from llamatelemetry.llama.client import AsyncLlamaCppClient, LlamaCppClient

    if isinstance(client, (LlamaCppClient, AsyncLlamaCppClient)):
        return LlamaTarget(client.as_async())
    if _openai_class(client) == "OpenAI":
        return OpenAITarget(client)
    if _openai_class(client) == "AsyncOpenAI":
        return AsyncOpenAITarget(client)
    if isinstance(client, InferenceEngine):
        return EngineTarget(client)
    raise TypeError(
        f"cannot benchmark a {type(client).__name__}; accepted: LlamaCppClient, OpenAI, "
        "AsyncOpenAI, or an engine with generate(), chat() and model_name"
    )


def _openai_class(client: Any) -> str | None:
    for base in type(client).__mro__:
        # The library says "openai" of what it exports, wherever that is defined.
        if base.__module__.startswith("openai") and base.__name__ in {"OpenAI", "AsyncOpenAI"}:
            return base.__name__
    return None


class LlamaTarget:
    """A llama.cpp server, by our own client: its timings, its cache switch, its counters."""

    is_blocking = False
    is_streaming = True
    has_queue = True
    provider = PROVIDER_LLAMA_CPP

    def __init__(self, client: AsyncLlamaCppClient) -> None:
        self._client = client
        watch_llama(client)
        parts = urlsplit(client.base_url)
        self.server = server_of(parts.scheme, parts.hostname or "", parts.port)
        self.facts = ServerFacts(PROVIDER_LLAMA_CPP)

    async def open(self) -> None:
        """Ask what the server is."""
        self.facts = await learn_llama_facts(self._client)

    async def counters(self) -> dict[str, float]:
        """Give what ``/metrics`` counts, where the server has it switched on."""
        return await llama_counters(self._client)

    async def ask(self, question: Question, seen: Observation) -> None:
        """Stream one answer."""
        stream = await self._client.chat(
            question.messages,
            question.max_tokens,
            0.0,
            stream=True,
            model=question.model or None,
            seed=question.seed,
            **_llama_switches(question),
        )
        seen.headers()
        async with stream:
            async for chunk in stream:
                seen.chunk(chunk)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _llama_switches(question: Question) -> dict[str, Any]:
    return {"ignore_eos": True, "cache_prompt": not question.cold}


async def llama_counters(client: AsyncLlamaCppClient) -> dict[str, float]:
    """Give the counters of a llama.cpp server; empty where ``/metrics`` is switched off."""
    from llamatelemetry.llama import LlamaServerError

    try:
        return await client.metrics()
    except LlamaServerError:
        return {}


async def learn_llama_facts(client: AsyncLlamaCppClient) -> ServerFacts:
    """Ask a llama.cpp server what it is: build, model, context, slots."""
    from llamatelemetry.llama import LlamaServerError

    try:
        props: Mapping[str, Any] = await client.props()
        models: Mapping[str, Any] = await client.models()
    except LlamaServerError:
        return ServerFacts(
            PROVIDER_LLAMA_CPP
        )  # an old build, or a proxy that lets only some through
    meta = get_field(_first(get_field(models, "data")), "meta")
    known = {
        "server": PROVIDER_LLAMA_CPP,
        "server.build": as_str(get_field(props, "build_info")),
        "server.slots": as_count(get_field(props, "total_slots")),
        "server.context_length": as_count(
            get_field(get_field(props, "default_generation_settings"), "n_ctx")
        ),
        "model.quantization": as_str(get_field(props, "model_ftype")),
        "model.parameters": as_count(get_field(meta, "n_params")),
        "model.size_bytes": as_count(get_field(meta, "size")),
    }
    return ServerFacts(
        PROVIDER_LLAMA_CPP,
        as_count(get_field(props, "total_slots")),
        {name: value for name, value in known.items() if value is not None},
        _busy(await llama_counters(client)),
    )


def _first(values: Any) -> Any:
    return next(iter(as_list(values)), None)


def _busy(counters: Mapping[str, float]) -> int | None:
    if "requests_processing" not in counters:
        return None
    return int(counters["requests_processing"] + counters.get("requests_deferred", 0))


class _OpenAI:
    """What the two kinds of client of the openai library have in common."""

    is_streaming = True
    has_queue = True

    def __init__(self, client: Any) -> None:
        parts = urlsplit(str(client.base_url))
        self.server = server_of(parts.scheme, parts.hostname or "", parts.port)
        known = None if self.server is None else self.server.provider
        self._is_openai = known == PROVIDER_OPENAI
        self.provider = known or PROVIDER_OPENAI
        self.facts = ServerFacts()
        self._client = client
        self._llama: AsyncLlamaCppClient | None = None

    async def _learn(self, models: Any) -> None:
        owner = as_str(get_field(_first(get_field(models, "data")), "owned_by"))
        kind = _KINDS.get(owner or "")
        self.facts = ServerFacts(kind, fingerprint={} if kind is None else {"server": kind})
        if kind == PROVIDER_LLAMA_CPP:
            self.provider = PROVIDER_LLAMA_CPP
            self._llama = _llama_client(self._client)
        if self._llama is not None:
            self.facts = await learn_llama_facts(self._llama)

    async def counters(self) -> dict[str, float]:
        """Give the engine's counters, if it is llama.cpp."""
        return {} if self._llama is None else await llama_counters(self._llama)

    async def close(self) -> None:
        """Close what was opened here; the client is its owner's."""
        if self._llama is not None:
            await self._llama.close()

    def _options(self, question: Question) -> dict[str, Any]:
        options: dict[str, Any] = {
            "model": question.model,
            "messages": question.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._is_openai:
            # OpenAI's own newer models take nothing else.
            return {**options, "max_completion_tokens": question.max_tokens}
        options |= {"max_tokens": question.max_tokens, "temperature": 0.0, "seed": question.seed}
        if self.facts.kind == PROVIDER_LLAMA_CPP:
            options["extra_body"] = _llama_switches(question)
            # After a stream it may close the connection without having said so, and a request
            # that follows at once would get no answer; our own client does the same.
            options["extra_headers"] = {"Connection": "close"}
        elif self.facts.ignores_eos:
            options["extra_body"] = {"ignore_eos": True}
        return options


def _llama_client(client: Any) -> AsyncLlamaCppClient | None:
    """Ours, for what the openai library has no word for; ``None`` without its HTTP library."""
    from llamatelemetry.llama import AsyncLlamaCppClient

    key = client.api_key
    try:
        return AsyncLlamaCppClient(
            str(client.base_url), api_key=key if isinstance(key, str) else None, timeout_s=10.0
        )
    except ImportError:
        return None


class OpenAITarget(_OpenAI):
    """A synchronous client of the openai library, each request in a thread of its own."""

    is_blocking = True

    def __init__(self, client: Any) -> None:
        super().__init__(client.with_options(max_retries=0))
        watch_openai(self._client, is_async=False)

    async def open(self) -> None:
        """Ask what the server is."""
        await self._learn(_or_nothing(self._client.models.list))

    def ask(self, question: Question, seen: Observation) -> None:
        """Stream one answer."""
        stream = self._client.chat.completions.create(**self._options(question))
        seen.headers()
        with stream:
            for chunk in stream:
                seen.chunk(chunk)


class AsyncOpenAITarget(_OpenAI):
    """An asynchronous client of the openai library."""

    is_blocking = False

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._own_http: Any = None

    async def open(self) -> None:
        """Ask what the server is."""
        options: dict[str, Any] = {"max_retries": 0}
        if type(self._client._client).__name__ == "AsyncHttpxClientWrapper":
            # The library's own, whose connections may belong to another event loop.
            import openai

            self._own_http = options["http_client"] = openai.DefaultAsyncHttpxClient()
        self._client = self._client.with_options(**options)
        watch_openai(self._client, is_async=True)
        try:
            models = await self._client.models.list()
        except Exception:
            models = None
        await self._learn(models)

    async def ask(self, question: Question, seen: Observation) -> None:
        """Stream one answer."""
        stream = await self._client.chat.completions.create(**self._options(question))
        seen.headers()
        async with stream:
            async for chunk in stream:
                seen.chunk(chunk)

    async def close(self) -> None:
        """Close what was opened here."""
        await super().close()
        if self._own_http is not None:
            await self._own_http.aclose()


def _or_nothing(ask: Any) -> Any:
    try:
        return ask()
    except Exception:  # whatever the library raises: not every server has a list of models
        return None


class EngineTarget:
    """An engine that gives whole replies, each request in a thread of its own."""

    is_blocking = True
    is_streaming = False

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self.server: Server | None = None
        is_ours = type(engine).__module__.startswith(_TRANSFORMERS)
        self.provider = PROVIDER_HUGGINGFACE if is_ours else _UNKNOWN_PROVIDER
        self.has_queue = not is_ours
        self.facts = ServerFacts(fingerprint={"engine": type(engine).__name__})

    async def open(self) -> None:
        """Nothing to do."""

    async def counters(self) -> dict[str, float]:
        """Nothing is known."""
        return {}

    def ask(self, question: Question, seen: Observation) -> None:
        """Have one answer."""
        messages = [dict(message) for message in question.messages]
        seen.whole(self._engine.chat(messages, question.max_tokens, 0.0))

    async def close(self) -> None:
        """Nothing to do."""
