"""Check an inference server: which engine it is, what it reports of each call, and its metrics.

A few GET requests that need no model. An engine is named only if a reply proves it.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import mask_url
from llamatelemetry.genai import (
    as_list,
    as_str,
    get_field,
    provider_from_headers,
    provider_from_models,
)
from llamatelemetry.genai.engines.catalog import ENGINE_BY_PROVIDER, Engine, Route
from llamatelemetry.genai.engines.proofs import (
    OLLAMA,
    TEI,
    TENSORRT_LLM,
    TGI,
    VLLM,
    provider_from_info,
)
from llamatelemetry.genai.own_requests import open_url
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

_VERSION_PATHS: Final = {
    VLLM: "/version",
    TENSORRT_LLM: "/version",
    OLLAMA: "/api/version",
    TGI: "/info",
    TEI: "/info",
}
_PROXIES: Final = frozenset({"llama-swap"})
"""Values of `owned_by` of servers that pass the responses of an engine on."""
_LARGEST_REPLY: Final = 1_000_000


class _Reply(NamedTuple):
    """A reply to a GET request. `body` is `None` if it is not JSON."""

    status: int
    headers: Any
    text: str
    body: Any

    @property
    def outcome(self) -> str:
        """The status for people."""
        return f"{self.status or 'no reply'}"


_NO_REPLY: Final = _Reply(0, {}, "", None)
_Get = Callable[[str], _Reply]


def server_checks(url: str, timeout_s: float) -> list[Check]:
    """Check that a server is healthy, name its engine, and list what it reports of each call."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/v1")
    title, base = mask_url(url), f"{parts.scheme}://{parts.netloc}{path}"
    replies: dict[str, _Reply] = {}

    def get(path: str) -> _Reply:
        if path not in replies:
            try:
                replies[path] = _get(f"{base}{path}", timeout_s)
            except (OSError, http.client.HTTPException):
                replies[path] = _NO_REPLY  # A busy server may not reply in time.
        return replies[path]

    try:
        health = replies["/health"] = _get(f"{base}/health", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        remedy = "Start the server there, or correct the URL"
        return [Check("fail", title, f"cannot connect: {reason}", remedy)]
    if health.status == 503:
        return [Check("warn", title, "the model is still loading", "Run doctor again later")]
    return _engine_checks(title, get, replies)


def _engine_checks(title: str, get: _Get, replies: Mapping[str, _Reply]) -> list[Check]:
    checks = [_health(title, get("/health"))] if get("/health").status == 200 else []
    found = _recognize(get)
    if found is None:
        return [*checks, *_unknown(title, replies)]
    engine, proof = ENGINE_BY_PROVIDER[found[0]], found[1]
    name = " ".join(filter(None, (engine.name, _version(engine.provider, get))))
    checks.append(Check("ok", title, f"{name}, proved by {proof}"))
    if engine.provider == PROVIDER_LLAMA_CPP:
        checks.append(_props(title, get("/props")))
    checks += [_route(title, route) for route in engine.routes]
    return [*checks, _metrics(title, engine, get)]


def _health(title: str, reply: _Reply) -> Check:
    return Check(
        "ok", title, f"healthy ({as_str(get_field(reply.body, 'status')) or reply.status})"
    )


def _recognize(get: _Get) -> tuple[str, str] | None:
    """Return the provider of the engine and the proof."""
    for path in ("/health", "/v1/models"):
        if (provider := provider_from_headers(get(path).headers)) is not None:
            return provider, f"the headers of {path}"
    if (provider := provider_from_models(get("/v1/models").body)) is not None:
        return provider, "owned_by in /v1/models"
    if _owner(get("/v1/models")) in _PROXIES:
        return None
    if (provider := provider_from_info(get("/info").body)) is not None:
        return provider, "the fields of /info"
    # Other engines that write this text have proved themselves above.
    if get("/").text.strip() == "Ollama is running" and _version(OLLAMA, get):
        return OLLAMA, "the text of / and /api/version"
    return None


def _owner(models: _Reply) -> str | None:
    first = next(iter(as_list(get_field(models.body, "data"))), None)
    return as_str(get_field(first, "owned_by"))


def _version(provider: str, get: _Get) -> str | None:
    path = _VERSION_PATHS.get(provider)
    return None if path is None else as_str(get_field(get(path).body, "version"))


def _unknown(title: str, replies: Mapping[str, _Reply]) -> list[Check]:
    owner = _owner(replies["/v1/models"])
    if owner in _PROXIES:
        detail = f"{owner}, a proxy: its responses have the figures of the engine behind it"
        return [Check("ok", title, detail, "Run doctor with the URL of that engine")]
    tried = ", ".join(f"{path}: {reply.outcome}" for path, reply in replies.items())
    if all(reply.status not in range(200, 300) for reply in replies.values()):
        is_locked = replies["/v1/models"].status in (401, 403)
        remedy = (
            "doctor sends no API key: run it against the server without one"
            if is_locked
            else "Set --server to the base URL of the inference server"
        )
        return [Check("fail", title, f"not an inference server (tried {tried})", remedy)]
    detail = f"responds, but no reply proves its engine (tried {tried})"
    return [
        Check(
            "warn", title, detail, "See docs/instrument/engines.md for the engines and their proofs"
        )
    ]


def _route(title: str, route: Route) -> Check:
    """Return the figures that the responses of some routes report."""
    texts = [f"{', '.join(route.paths)} report {route.known_text()}"]
    if route.streams:
        texts.append(f"streams: {route.stream_text()}")
    if unknown := route.unknown_texts():
        texts.append(f"unknown: {', '.join(unknown)}")
    return Check("info", title, " | ".join(texts).replace("`", ""))


def _metrics(title: str, engine: Engine, get: _Get) -> Check:
    needs = engine.metrics_needs.replace("`", "")
    if engine.metrics is None:
        return Check(
            "info", title, f"no Prometheus metrics here{f', but {needs}' if needs else ''}"
        )
    if engine.provider == PROVIDER_LLAMA_CPP and isinstance(
        # Some builds take a scrape for work, which wakes a sleeping model.
        is_on := get_field(get("/props").body, "endpoint_metrics"),
        bool,
    ):
        status = 200 if is_on else 501
    else:
        status = get(engine.metrics).status
    if status == 200:
        return Check("ok", title, f"{engine.metrics} is reachable")
    if status in (401, 403):
        return Check("info", title, f"{engine.metrics} requires the server's API key")
    remedy = f"Start the server {needs}" if needs else ""
    return Check(
        "warn", title, f"{engine.metrics} is not available ({status or 'no reply'})", remedy
    )


def _props(title: str, reply: _Reply) -> Check:
    """Summarize the properties of a llama.cpp server."""
    if reply.status == 401:
        return Check("info", title, "/props requires the server's API key")
    if reply.status != 200:
        return Check("warn", title, f"/props: {reply.outcome}")
    props = reply.body
    path = as_str(get_field(props, "model_path")) or ""
    known = {
        "model": get_field(props, "model_alias") or Path(path).name,
        "build": get_field(props, "build_info"),
        "context per slot": get_field(get_field(props, "default_generation_settings"), "n_ctx"),
        "slots": get_field(props, "total_slots"),
    }
    detail = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    return Check("ok", title, detail or "/props is empty")


def _get(url: str, timeout_s: float) -> _Reply:
    try:
        response = open_url(url, {}, timeout_s)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read(_LARGEST_REPLY).decode(errors="replace")
        status, headers = int(response.status or 0), response.headers
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    return _Reply(status, headers, text, body)
