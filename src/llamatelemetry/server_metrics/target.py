"""The server to scrape: its URL, credentials and attributes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from llamatelemetry.genai import server_of
from llamatelemetry.genai.own_requests import basic_authorization
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_METRICS_PATH = "/metrics"


@dataclass(frozen=True)
class ScrapeTarget:
    """A server to scrape.

    `base_url` has no credentials, so that it can be logged. `model` selects one model of a router.
    `api_key` is not part of the headers: see `with_key`.
    """

    base_url: str
    attributes: Mapping[str, AttributeValue]
    headers: Mapping[str, str] = field(repr=False)
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def with_key(self) -> ScrapeTarget:
        """Return the target with the API key, for a server that rejects requests without it."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return replace(self, headers={**self.headers, **key}, api_key=None)


def parse_target(url: str, api_key: str | None = None) -> ScrapeTarget:
    """Parse the URL of a server's metrics, such as `/prometheus/metrics`, or its base URL.

    `?model=...` selects one model of a llama.cpp router. The API key is not used if the URL has
    `user:password@`, which is for a proxy with basic authentication.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(_METRICS_PATH)
    host = parts.netloc.rpartition("@")[2]
    server = server_of(parts.scheme, parts.hostname or "", parts.port)
    attributes: dict[str, AttributeValue] = {}
    if server is not None:
        attributes[names.SERVER_ADDRESS] = server.address
        if server.port is not None:
            attributes[names.SERVER_PORT] = server.port
    if path:
        # One host may have several servers with different paths.
        attributes[names.URL_PATH] = path
    basic = basic_authorization(parts.username, parts.password)
    return ScrapeTarget(
        base_url=f"{parts.scheme}://{host}{path}",
        attributes=attributes,
        headers=basic,
        model=next(iter(parse_qs(parts.query).get("model", ())), None),
        api_key=None if basic else api_key,
    )


def api_key_from_environment() -> str | None:
    """Return the API key in `LLAMA_API_KEY`, the variable that the server reads, too."""
    return os.environ.get("LLAMA_API_KEY", "").strip() or None
