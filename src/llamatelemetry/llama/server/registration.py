"""Attributes of a managed server, registered so that the spans of calls to it get them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import known_servers, parse_props, server_of
from llamatelemetry.genai import server_pids as pids
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Server
    from llamatelemetry.llama.server.address import Address
    from llamatelemetry.llama.server.config import ServerConfig
    from llamatelemetry.llama.server.log import LoadReport

_LOOPBACK = {"127.0.0.1": "localhost", "localhost": "127.0.0.1", "::1": "localhost"}


class Registration:
    """The entries of one running server in the registries of servers and of processes."""

    def __init__(
        self,
        address: Address,
        description: Mapping[str, AttributeValue],
        pid: Callable[[], int | None],
    ) -> None:
        """Register the server under each host name that calls to it may use."""
        hosts = filter(None, (address.host, _LOOPBACK.get(address.host)))
        found = (server_of(address.scheme, host, address.port) for host in hosts)
        self._servers: list[Server] = [server for server in found if server is not None]
        for server in self._servers:
            known_servers.remember(server, PROVIDER_LLAMA_CPP)
            known_servers.describe(server, description)
            pids.register(server.origin, pid)

    def remove(self) -> None:
        """Remove the attributes and the process of the server."""
        for server in self._servers:
            known_servers.describe(server, {})
            pids.unregister(server.origin)


def describe_server(
    config: ServerConfig, props: Mapping[str, Any], report: LoadReport
) -> dict[str, AttributeValue]:
    """Return the attributes of a server; unknown ones are left out."""
    found: dict[str, Any] = {
        **parse_props(props).attributes,
        names.SERVER_MODEL_FILE: None if config.is_router else config.model_file.name,
        names.SERVER_GPU_LAYERS: report.gpu_layers,
    }
    if report.memory:
        kinds = list(report.memory.values())
        found[names.SERVER_MEMORY_DEVICES] = list(report.memory)
        found[names.SERVER_MEMORY_MODEL] = [each["model"] for each in kinds]
        found[names.SERVER_MEMORY_CONTEXT] = [each["context"] for each in kinds]
        found[names.SERVER_MEMORY_COMPUTE] = [each["compute"] for each in kinds]
    return {name: value for name, value in found.items() if value is not None}
