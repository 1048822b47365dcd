"""Targets over HTTP: the llama.cpp client and the clients of the openai library."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamatelemetry.bench.targets.http_timing import observe_llama, observe_openai
from llamatelemetry.bench.targets.target import (
    BenchmarkTarget,
    ServerFacts,
    server_kind,
)
from llamatelemetry.config import mask_url
from llamatelemetry.genai import as_count, as_list, as_str, get_field, server_of
from llamatelemetry.genai.own_requests import httpx_mounts
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP, PROVIDER_OPENAI

if TYPE_CHECKING:
    from llamatelemetry.bench.targets.observation import Observation
    from llamatelemetry.bench.targets.target import BenchRequest
    from llamatelemetry.genai import Server
    from llamatelemetry.llama import AsyncLlamaCppClient


class LlamaTarget(BenchmarkTarget):
    """A llama.cpp server, through `AsyncLlamaCppClient`."""

    provider = PROVIDER_LLAMA_CPP

    def __init__(self, client: AsyncLlamaCppClient) -> None:
        self._client = client
        observe_llama(client)
        self.server = _server_at(client.base_url)
        self.url = mask_url(client.base_url)
        self.facts = ServerFacts(PROVIDER_LLAMA_CPP)

    async def open(self) -> None:
        """Fetch the properties of the server."""
        self.facts = await _fetch_llama_facts(self._client)

    async def counters(self) -> dict[str, float]:
        """Return the counters of `/metrics`; empty if the server does not expose them."""
        return await _fetch_llama_counters(self._client)

    async def send(self, request: BenchRequest, observation: Observation) -> None:
        """Stream one response."""
        stream = await self._client.chat(
            request.messages,
            request.max_tokens,
            0.0,
            stream=True,
            model=request.model or None,
            seed=request.seed,
            **_llama_options(request),
        )
        await _observe_stream(stream, observation)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


async def _observe_stream(stream: Any, observation: Observation) -> None:
    observation.on_headers()
    async with stream:
        async for chunk in stream:
            observation.on_chunk(chunk)


def _llama_options(request: BenchRequest) -> dict[str, Any]:
    return {"ignore_eos": True, "cache_prompt": not request.cold}


async def _fetch_llama_counters(client: AsyncLlamaCppClient) -> dict[str, float]:
    """Return the counters of a llama.cpp server; empty if they cannot be read.

    `/metrics` may be disabled. The requests of a run are kept also if the server crashes.
    """
    try:
        return await client.metrics()
    except Exception:  # httpx2's errors are not imported here
        return {}


async def _fetch_llama_facts(client: AsyncLlamaCppClient) -> ServerFacts:
    """Return the build, model, context length and slots of a llama.cpp server."""
    from llamatelemetry.llama import LlamaServerError

    try:
        props: Mapping[str, Any] = await client.props()
        models: Mapping[str, Any] = await client.models()
    except LlamaServerError:
        # Old builds lack these endpoints, and a proxy may block them.
        return ServerFacts(PROVIDER_LLAMA_CPP)
    meta = get_field(_first_model(models), "meta")
    slots = as_count(get_field(props, "total_slots"))
    known = {
        "server": PROVIDER_LLAMA_CPP,
        "server.build": as_str(get_field(props, "build_info")),
        "server.slots": slots,
        "server.context_length": as_count(
            get_field(get_field(props, "default_generation_settings"), "n_ctx")
        ),
        "model.quantization": as_str(get_field(props, "model_ftype")),
        "model.parameters": as_count(get_field(meta, "n_params")),
        "model.size_bytes": as_count(get_field(meta, "size")),
    }
    return ServerFacts(
        PROVIDER_LLAMA_CPP,
        slots,
        {name: value for name, value in known.items() if value is not None},
        _busy_requests(await _fetch_llama_counters(client)),
    )


def _server_at(url: str) -> Server | None:
    parts = urlsplit(url)
    return server_of(parts.scheme, parts.hostname or "", parts.port)


def _first_model(models: Any) -> Any:
    return next(iter(as_list(get_field(models, "data"))), None)


def _busy_requests(counters: Mapping[str, float]) -> int | None:
    if "requests_processing" not in counters:
        return None
    return int(counters["requests_processing"] + counters.get("requests_deferred", 0))


class _OpenAI(BenchmarkTarget):
    """Common part of the synchronous and asynchronous openai targets."""

    def __init__(self, client: Any) -> None:
        self.server = _server_at(str(client.base_url))
        self.url = mask_url(str(client.base_url))
        known = None if self.server is None else self.server.provider
        self._is_openai = known == PROVIDER_OPENAI
        self.provider = known or PROVIDER_OPENAI
        self.facts = ServerFacts()
        self._client = client
        self._llama: AsyncLlamaCppClient | None = None

    async def open(self) -> None:
        """Fetch the properties of the server."""
        try:
            models = self._client.models.list()
            if isawaitable(models):
                models = await models
        except Exception:  # the library's errors vary, and not every server lists models
            models = None
        kind = server_kind(_first_model(models))
        self.facts = ServerFacts(kind, fingerprint={} if kind is None else {"server": kind})
        self.provider = kind or self.provider
        if kind == PROVIDER_LLAMA_CPP:
            self._llama = _llama_client(self._client)
        if self._llama is not None:
            self.facts = await _fetch_llama_facts(self._llama)

    async def counters(self) -> dict[str, float]:
        """Return the counters of a llama.cpp server; empty for any other server."""
        return {} if self._llama is None else await _fetch_llama_counters(self._llama)

    async def close(self) -> None:
        """Close the llama.cpp client. The caller owns the openai client."""
        if self._llama is not None:
            await self._llama.close()

    def _options(self, request: BenchRequest) -> dict[str, Any]:
        options: dict[str, Any] = {
            "model": request.model,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._is_openai:
            # OpenAI's newer models reject `max_tokens`, `temperature` and `seed`.
            return {**options, "max_completion_tokens": request.max_tokens}
        options |= {"max_tokens": request.max_tokens, "temperature": 0.0, "seed": request.seed}
        if self.facts.kind == PROVIDER_LLAMA_CPP:
            options["extra_body"] = _llama_options(request)
            # llama.cpp may close a connection after a stream without announcing it, and a
            # request sent right then would fail. LlamaCppClient sends the same header.
            options["extra_headers"] = {"Connection": "close"}
        elif self.facts.ignores_eos:
            options["extra_body"] = {"ignore_eos": True}
        return options


def _llama_client(client: Any) -> AsyncLlamaCppClient | None:
    """Return a client for llama.cpp's own endpoints, or `None` if httpx2 is not installed."""
    from llamatelemetry.llama import AsyncLlamaCppClient

    key = client.api_key if isinstance(client.api_key, str) else None
    try:
        return AsyncLlamaCppClient(str(client.base_url), api_key=key, timeout_s=10.0)
    except ImportError:
        return None


class OpenAITarget(_OpenAI):
    """A synchronous client of the openai library. Each request runs in its own thread."""

    is_blocking = True

    def __init__(self, client: Any) -> None:
        super().__init__(client.with_options(max_retries=0))
        observe_openai(self._client, is_async=False)

    def send(self, request: BenchRequest, observation: Observation) -> None:
        """Stream one response."""
        stream = self._client.chat.completions.create(**self._options(request))
        observation.on_headers()
        with stream:
            for chunk in stream:
                observation.on_chunk(chunk)


class AsyncOpenAITarget(_OpenAI):
    """An asynchronous client of the openai library."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._own_http: Any = None

    async def open(self) -> None:
        """Fetch the properties of the server."""
        options: dict[str, Any] = {"max_retries": 0}
        if type(self._client._client).__name__ == "AsyncHttpxClientWrapper":
            # The client's default connection pool may be bound to another event loop.
            import openai

            host = urlsplit(str(self._client.base_url)).hostname
            self._own_http = openai.DefaultAsyncHttpxClient(mounts=httpx_mounts(host))
            options["http_client"] = self._own_http
        self._client = self._client.with_options(**options)
        observe_openai(self._client, is_async=True)
        await super().open()

    async def send(self, request: BenchRequest, observation: Observation) -> None:
        """Stream one response."""
        stream = await self._client.chat.completions.create(**self._options(request))
        await _observe_stream(stream, observation)

    async def close(self) -> None:
        """Close what `open()` opened."""
        await super().close()
        if self._own_http is not None:
            await self._own_http.aclose()
