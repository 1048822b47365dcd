"""Where a server is asked: its URL taken apart, and what it is let in with."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from llamatelemetry.genai import server_of
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_METRICS_PATH = "/metrics"


@dataclass(frozen=True)
class Target:
    """A server to read. `base_url` has no credentials in it, and can be logged."""

    base_url: str
    attributes: Mapping[str, AttributeValue]
    headers: Mapping[str, str] = field(repr=False)
    model: str | None = None
    """The one model of a router that is wanted; else all that are loaded."""


def target_of(url: str, api_key: str | None = None) -> Target:
    """Take the URL of a server's `/metrics` apart; its base URL does as well.

    Args:
        url: with `?model=...` for one model of a router, with `user:password@` for a proxy
            that asks for them.
        api_key: that the server asks for; not sent where the URL has a password.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(_METRICS_PATH)
    host = parts.netloc.rpartition("@")[2]
    server = server_of(parts.scheme, parts.hostname or "", parts.port)
    attributes: dict[str, AttributeValue] = {names.GEN_AI_PROVIDER_NAME: PROVIDER_LLAMA_CPP}
    if server is not None:
        attributes[names.SERVER_ADDRESS] = server.address
        if server.port is not None:
            attributes[names.SERVER_PORT] = server.port
    if path:  # one host may have several servers, each under a path
        attributes[names.URL_PATH] = path
    return Target(
        base_url=f"{parts.scheme}://{host}{path}",
        attributes=attributes,
        headers=_authorization(parts.username, parts.password, api_key),
        model=next(iter(parse_qs(parts.query).get("model", ())), None),
    )


def _authorization(
    user: str | None, password: str | None, api_key: str | None
) -> Mapping[str, str]:
    if user or password:
        pair = f"{unquote(user or '')}:{unquote(password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def api_key_from_environment() -> str | None:
    """The key in the variable that the server itself reads its key from."""
    return os.environ.get("LLAMA_API_KEY", "").strip() or None
