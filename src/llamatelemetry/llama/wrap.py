"""Tracing one client of the openai library, without instrumenting the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from llamatelemetry._optional import required_by
from llamatelemetry.config import active_config

if TYPE_CHECKING:
    from types import ModuleType

ClientT = TypeVar("ClientT")


def wrap_openai_client(client: ClientT, strict_operation_names: bool = True) -> ClientT:
    """Record every call of this one client, to whatever server it talks; give the client back.

    Copies that are made of it by ``copy()`` or ``with_options()`` are recorded too. A client that
    is wrapped twice, or while the plugin is active, makes one span per call all the same.

    Args:
        client: an ``OpenAI`` or ``AsyncOpenAI``, or an Azure one.
        strict_operation_names: record only well-known operation names.

    Raises:
        ImportError: ``llamatelemetry-instrumentation-openai`` is not installed.
        TypeError: it is no client of the openai library.
    """
    # Strict is the default, which the configuration may change; not strict was asked for here.
    own: dict[str, Any] = {} if strict_operation_names else {"strict_operation_names": False}
    _plugin().instrument_client(client, config=active_config(**own))
    return client


def unwrap_openai_client(client: ClientT) -> ClientT:
    """Undo `wrap_openai_client`; give the client back. One that is not wrapped stays as it is.

    Raises:
        ImportError: ``llamatelemetry-instrumentation-openai`` is not installed.
    """
    _plugin().uninstrument_client(client)
    return client


def _plugin() -> ModuleType:
    with required_by(
        "Wrapping a client of the openai library", "llamatelemetry-instrumentation-openai"
    ):
        import llamatelemetry_instrumentation_openai
    return llamatelemetry_instrumentation_openai
