"""The interface of a benchmark target, and the choice of the adapter for a client.

Adapters disable retries wherever a client has them. A failed request that is retried would
otherwise be measured as one slow request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import InferenceEngine, provider_from_models
from llamatelemetry.semconv.operations import PROVIDER_HUGGINGFACE, PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from llamatelemetry.bench.load.prompts import Message
    from llamatelemetry.bench.targets.observation import Observation
    from llamatelemetry.genai import Server

_UNKNOWN_PROVIDER: Final = "_OTHER"
_TRANSFORMERS: Final = "llamatelemetry.transformers"
_IGNORES_EOS: Final = frozenset({PROVIDER_LLAMA_CPP, "vllm", "sglang"})


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One chat request to send."""

    model: str
    messages: list[Message]
    max_tokens: int
    seed: int
    cold: bool


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Properties of the server under test. `kind` is its provider, such as `vllm`, if proved.

    The server processes `slots` requests in parallel, and was processing `busy` requests of other
    clients. The `fingerprint` must be equal in two benchmarks to compare them.
    """

    kind: str | None = None
    slots: int | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict[str, Any])
    busy: int | None = None

    @property
    def ignores_eos(self) -> bool:
        """Whether the server supports `ignore_eos`, which makes response lengths exact."""
        return self.kind in _IGNORES_EOS

    @property
    def skips_cache(self) -> bool:
        """Whether requests can bypass the prompt cache."""
        return self.kind == PROVIDER_LLAMA_CPP


class BenchmarkTarget:
    """A client or engine under test. A subclass sets `provider`, `server` and `facts`."""

    is_blocking = False
    is_streaming = True
    has_queue = True
    url = ""  # of the server, without credentials
    provider: str
    server: Server | None
    facts: ServerFacts

    async def open(self) -> None:
        """Connect and fetch the properties of the server, if there is one."""

    async def counters(self) -> dict[str, float]:
        """Return the engine's own counters; empty if it has none."""
        return {}

    def send(self, request: BenchRequest, observation: Observation) -> Any:
        """Send one request. Return an awaitable unless the target blocks."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close what `open()` opened. The caller owns its client or engine."""


class EngineTarget(BenchmarkTarget):
    """An in-process or custom engine without streaming. Each request runs in its own thread."""

    is_blocking = True
    is_streaming = False

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self.server = None
        is_transformers = type(engine).__module__.startswith(_TRANSFORMERS)
        self.provider = PROVIDER_HUGGINGFACE if is_transformers else _UNKNOWN_PROVIDER
        self.has_queue = not is_transformers
        self.facts = ServerFacts(fingerprint={"engine": type(engine).__name__})

    def send(self, request: BenchRequest, observation: Observation) -> None:
        """Request one complete response."""
        messages = [dict(message) for message in request.messages]
        observation.on_response(self._engine.chat(messages, request.max_tokens, 0.0))


def server_kind(model: Any) -> str | None:
    """Return the kind of a server by an entry of its list of models: `ServerFacts.kind`."""
    return provider_from_models({"data": [model]})


def make_target(client: Any) -> BenchmarkTarget:
    """Return the adapter for a client or engine.

    Raises:
        TypeError: The client is of an unsupported type.
    """
    from llamatelemetry.bench.targets.clients import AsyncOpenAITarget, LlamaTarget, OpenAITarget
    from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient

    if isinstance(client, (LlamaCppClient, AsyncLlamaCppClient)):
        return LlamaTarget(client.as_async())
    if openai_class(client) == "OpenAI":
        return OpenAITarget(client)
    if openai_class(client) == "AsyncOpenAI":
        return AsyncOpenAITarget(client)
    if isinstance(client, InferenceEngine):
        return EngineTarget(client)
    raise TypeError(
        "client must be a LlamaCppClient, OpenAI, AsyncOpenAI, or an engine with generate(), "
        f"chat() and model_name, got {type(client).__name__}"
    )


def openai_class(client: Any) -> str | None:
    """Return `OpenAI` or `AsyncOpenAI`, or `None` for another kind of client."""
    for base in type(client).__mro__:
        # The library sets `__module__` of the classes it exports to "openai".
        if base.__module__.startswith("openai") and base.__name__ in {"OpenAI", "AsyncOpenAI"}:
            return base.__name__
    return None
