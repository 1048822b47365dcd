"""Metadata of llama.cpp servers for the spans of their calls: build, model, quantization, context.

The metadata is fetched once per server in a thread of its own, never during a request. A
response must have proved before that the server is llama.cpp. The first calls therefore have no
such attributes. `GET /props` needs no slot and wakes no model. A router is queried for a model
only while that model is loaded.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)

from llamatelemetry._limits import Limit
from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.json_access import as_count, as_dict, as_str, get_field, model_name
from llamatelemetry.genai.own_requests import open_url
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.model import Server

_logger = logging.getLogger("llamatelemetry.genai")

# A server whose slots are all in use can delay even this request.
_TIMEOUT_S: Final = 10.0
_LARGEST_RESPONSE: Final = 4 * 1024 * 1024  # It contains the chat template.
_REFRESH_S: Final = 600.0
_RETRY_S: Final = 30.0
_FOUND: Final = Limit("server_metadata", 256, "Servers and models of routers, with their metadata")
_DUE: Final = Limit("server_metadata_requests", 256, "Times of the next request for metadata")
_FETCHES_AT_MOST: Final = 4


class ServerMetadata(NamedTuple):
    """Metadata of one server.

    Attributes:
        attributes: Span attributes; for a router those of the router itself.
        models: Model names that its responses may have; empty for a router.
        is_router: Whether the server routes requests to several models.
    """

    attributes: Mapping[str, AttributeValue]
    models: frozenset[str] = frozenset()
    is_router: bool = False


_UNKNOWN: Final = ServerMetadata({})


class ServerMetadataCache:
    """Metadata of the servers that this process uses."""

    def __init__(self) -> None:
        self._found: dict[str, ServerMetadata] = {}
        self.has_any = False  # Whether `attributes_of` returns attributes for any server.
        self._due: dict[str, float] = {}
        self._fetching: set[str] = set()
        if hasattr(os, "register_at_fork"):
            # The threads run in the parent only.
            os.register_at_fork(after_in_child=self._fetching.clear)

    def attributes_of(
        self, server: Server | None, model: str | None, build: str | None = None
    ) -> Mapping[str, AttributeValue]:
        """Return the attributes of a call's span. Empty while they are not certain.

        If the model or the build in the response differs from the metadata, the server was
        restarted or has loaded another model. The metadata is then fetched again.
        """
        found = None if server is None else self._found.get(server.origin)
        if server is None or found is None:
            return {}
        key = server.origin
        if found.is_router:
            key = _key_of_model(server.origin, model)
            found = self._found.get(key, found)
        if build is not None and found.attributes.get(names.SERVER_BUILD, build) != build:
            return self._outdated(key)
        if model is not None and found.models and model not in found.models:
            return self._outdated(key)
        return found.attributes

    def _outdated(self, key: str) -> Mapping[str, AttributeValue]:
        self._found[key] = _UNKNOWN
        self._due[key] = self._due.get(key, 0.0) - _REFRESH_S + _RETRY_S
        return {}

    def cache(self, server: Server, identity: ServerMetadata, model: str | None = None) -> None:
        """Store the metadata of a server, or of one `model` of a router."""
        self.has_any = True
        if model is None:
            self._found[server.origin] = identity
        else:  # The model may have other names, but calls request it by this one.
            self._found[_key_of_model(server.origin, model)] = ServerMetadata(identity.attributes)
        _FOUND.trim(self._found)

    def fetch(
        self, server: Server, base_url: str, headers: Mapping[str, str], model: str | None
    ) -> None:
        """Fetch the metadata of a llama.cpp server in the background, unless it is cached.

        `base_url` includes the prefix of the paths, if any. `headers` have the credentials, which
        are kept for this request only. `model` is used if the server is a router.
        """
        if self._is_due(server.origin):
            self._fetch_later(server, base_url, headers, None)
        elif (
            model is not None
            and self._found.get(server.origin, _UNKNOWN).is_router
            and self._is_due(_key_of_model(server.origin, model))
        ):
            self._fetch_later(server, base_url, headers, model)

    def _is_due(self, key: str) -> bool:
        return monotonic() >= self._due.get(key, 0.0)

    def _fetch_later(
        self, server: Server, base_url: str, headers: Mapping[str, str], model: str | None
    ) -> None:
        if len(self._fetching) >= _FETCHES_AT_MOST or not base_url.startswith("http"):
            return
        key = server.origin if model is None else _key_of_model(server.origin, model)
        self._due[key] = monotonic() + _RETRY_S
        _DUE.trim(self._due)

        def run() -> None:
            try:
                with suppress_instrumentation(), suppress_http_instrumentation():
                    found = fetch_server_metadata(base_url, headers, model)
                if found is not None:
                    self.cache(server, found, model)
                    self._due[key] = monotonic() + _REFRESH_S
            except Exception as error:
                internal_errors.log_once("fetching the metadata of a server", error)
            finally:
                self._fetching.discard(key)

        self._fetching.add(key)
        try:
            threading.Thread(target=run, name="llamatelemetry-metadata", daemon=True).start()
        except RuntimeError as error:  # Out of threads, or the interpreter is shutting down.
            self._fetching.discard(key)
            _logger.debug("Cannot fetch the metadata of %s: %s", server.origin, error)

    def forget(self) -> None:
        """Forget all metadata."""
        self._found.clear()
        self.has_any = False
        self._due.clear()


def _key_of_model(origin: str, model: str | None) -> str:
    return f"{origin} {model}"


server_metadata_cache: Final = ServerMetadataCache()
"""The metadata of the llama.cpp servers that this process has called."""


def parse_props(props: Any) -> ServerMetadata:
    """Parse a response of `GET /props`."""
    build = as_str(get_field(props, "build_info"))
    attributes: dict[str, AttributeValue] = {} if build is None else {names.SERVER_BUILD: build}
    if get_field(props, "role") == "router":
        # A router fills its other fields with placeholders: its model is called "none".
        return ServerMetadata(attributes, is_router=True)
    aliases = (as_str(get_field(props, "model_alias")) or "").split(",")
    file = model_name(get_field(props, "model_path"))
    found = {
        names.SERVER_MODEL_FILE: file,
        names.SERVER_QUANTIZATION: as_str(get_field(props, "model_ftype")),
        names.SERVER_CONTEXT_LENGTH: as_count(_slot_settings(props).get("n_ctx")),
        names.SERVER_SLOTS: as_count(get_field(props, "total_slots")),
    }
    attributes.update({name: value for name, value in found.items() if value})
    known = (file, *(model_name(alias.strip()) for alias in aliases))
    return ServerMetadata(attributes, frozenset(name for name in known if name))


def _slot_settings(props: Any) -> Mapping[str, Any]:
    return as_dict(get_field(props, "default_generation_settings"))


def fetch_server_metadata(
    base_url: str, headers: Mapping[str, str], model: str | None = None
) -> ServerMetadata | None:
    """Fetch the metadata of a server. Return `None` if it does not provide any.

    With `model`, a router forwards the request to that model, unless that would load it.
    """
    # Imported here, like `urllib.request` by `open_url`.
    from urllib.error import HTTPError

    query = "" if model is None else f"?model={quote(model, safe='')}&autoload=false"
    try:
        props = _get_json(f"{base_url}/props{query}", headers)
    except HTTPError as error:
        error.close()  # It holds the connection.
        return None
    except (OSError, ValueError, RecursionError):
        return None
    return parse_props(props) if isinstance(props, dict) else None


def _get_json(url: str, headers: Mapping[str, str]) -> Any:
    with open_url(url, headers, _TIMEOUT_S, use_proxy=False) as response:
        return json.loads(response.read(_LARGEST_RESPONSE))
