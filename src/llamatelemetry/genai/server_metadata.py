"""What a llama.cpp server is: its build, model, quantisation, context and slots, for the spans of its calls.

It is asked for once per server, in a thread of its own, after a reply has proved that the server
is llama.cpp: never on a request's path, never of another server. The first calls therefore go
without. ``GET /props`` needs no slot and wakes no model; a router is asked about a model only as
long as that is loaded.
"""

from __future__ import annotations

import json
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.json_access import as_count, as_dict, as_str, get_field, model_name
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.model import Server

# A server whose slots are all taken can keep even this question waiting.
_TIMEOUT_S: Final = 10.0
_LARGEST_REPLY: Final = 4 * 1024 * 1024  # chat templates make it long
_REFRESH_S: Final = 600.0
_RETRY_S: Final = 30.0
_SERVERS_AT_MOST: Final = 256
_FETCHES_AT_MOST: Final = 4


class ServerMetadata(NamedTuple):
    """What one server has said of itself.

    ``models`` are the names under which its replies may come; for a router, whose replies come
    from any model, it is empty, and ``attributes`` are those of the router alone.
    """

    attributes: Mapping[str, AttributeValue]
    models: frozenset[str] = frozenset()
    is_router: bool = False


_UNKNOWN: Final = ServerMetadata({})


class ServerMetadataCache:
    """The identities of the servers that this process talks to."""

    def __init__(self) -> None:
        self._found: dict[str, ServerMetadata] = {}
        self.has_any = False  # whether `attributes_of` may know of any server
        self._due: dict[str, float] = {}
        self._fetching: set[str] = set()
        if hasattr(os, "register_at_fork"):
            # The threads stay in the parent.
            os.register_at_fork(after_in_child=self._fetching.clear)

    def attributes_of(
        self, server: Server | None, model: str | None, build: str | None = None
    ) -> Mapping[str, AttributeValue]:
        """Give the attributes for a call's span; none while nothing is known for certain.

        Args:
            server: that the call went to.
            model: that its reply named. One that the server did not have when it was asked
                has been loaded since: the server is asked again.
            build: that its reply named; likewise.
        """
        if server is None or server.origin not in self._found:
            return {}
        key = server.origin
        found = self._found[key]
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

    def learn(self, server: Server, identity: ServerMetadata, model: str | None = None) -> None:
        """Note what a server is; ``model`` is one of a router's."""
        self.has_any = True
        if len(self._found) >= _SERVERS_AT_MOST:
            self._found.clear()
        if model is None:
            self._found[server.origin] = identity
        else:  # it was asked for by this name, whatever else it is called
            self._found[_key_of_model(server.origin, model)] = ServerMetadata(identity.attributes)

    def ask(
        self, server: Server, base_url: str, headers: Mapping[str, str], model: str | None
    ) -> None:
        """See to it that a server that is llama.cpp gets known, soon. Costs nothing once it is.

        Args:
            server: which one.
            base_url: what its paths begin with: the origin, and a prefix if it has one.
            headers: with which it lets us in; kept for this one question.
            model: that was asked for, in case it is a router.
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
        if len(self._due) >= _SERVERS_AT_MOST:
            self._due.clear()
        self._due[key] = monotonic() + _RETRY_S

        def run() -> None:
            try:
                with suppress_instrumentation(), suppress_http_instrumentation():
                    found = fetch_server_metadata(base_url, headers, model)
                if found is not None:
                    self.learn(server, found, model)
                    self._due[key] = monotonic() + _REFRESH_S
            except Exception as error:
                internal_errors.log_once("asking a server what it is", error)
            finally:
                self._fetching.discard(key)

        self._fetching.add(key)
        threading.Thread(target=run, name="llamatelemetry-identity", daemon=True).start()

    def forget(self) -> None:
        """Forget everything that was learned."""
        self._found.clear()
        self.has_any = False
        self._due.clear()


def _key_of_model(origin: str, model: str | None) -> str:
    return f"{origin} {model}"


server_metadata_cache: Final = ServerMetadataCache()


def parse_props(props: Any) -> ServerMetadata:
    """Read a reply of ``GET /props``."""
    build = as_str(get_field(props, "build_info"))
    attributes: dict[str, AttributeValue] = {} if build is None else {names.SERVER_BUILD: build}
    if get_field(props, "role") == "router":
        # Its other fields are there for the shape: the model is called "none".
        return ServerMetadata(attributes, is_router=True)
    aliases = (as_str(get_field(props, "model_alias")) or "").split(",")
    file = model_name(get_field(props, "model_path"))
    told = {
        names.SERVER_MODEL_FILE: file,
        names.SERVER_QUANTIZATION: as_str(get_field(props, "model_ftype")),
        names.SERVER_CONTEXT_LENGTH: as_count(_slot_settings(props).get("n_ctx")),
        names.SERVER_SLOTS: as_count(get_field(props, "total_slots")),
    }
    attributes.update({name: value for name, value in told.items() if value})
    known = (file, *(model_name(alias.strip()) for alias in aliases))
    return ServerMetadata(attributes, frozenset(name for name in known if name))


def _slot_settings(props: Any) -> Mapping[str, Any]:
    return as_dict(get_field(props, "default_generation_settings"))


def fetch_server_metadata(
    base_url: str, headers: Mapping[str, str], model: str | None = None
) -> ServerMetadata | None:
    """Ask a server for its properties; ``None`` when it does not tell.

    With ``model`` a router passes the question on to that model, unless that would load it.
    """
    query = "" if model is None else f"?model={quote(model, safe='')}&autoload=false"
    try:
        props = _get_json(f"{base_url}/props{query}", headers)
    except (OSError, ValueError, RecursionError):
        return None
    return parse_props(props) if isinstance(props, dict) else None


def _get_json(url: str, headers: Mapping[str, str]) -> Any:
    # In here: http.client and what it brings takes longer to import than all else of ours.
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            """Not followed: the key in the headers is for this server only."""

    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http by `ask`
    opener = urllib.request.build_opener(NoRedirect)
    with opener.open(request, timeout=_TIMEOUT_S) as reply:
        return json.loads(reply.read(_LARGEST_REPLY))
