"""Instrument one client of the openai library, without instrumenting the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from llamatelemetry._optional import required_by
from llamatelemetry.config import active_config

if TYPE_CHECKING:
    from types import ModuleType

ClientT = TypeVar("ClientT")


def wrap_openai_client(client: ClientT, strict_operation_names: bool = True) -> ClientT:
    """Record every call of one client, to any server. Return the client.

    Copies of the client by `copy()` or `with_options()` are recorded, too. A client that is wrapped
    twice, or while the plugin is active, still creates one span per call.

    Args:
        client: `OpenAI` or `AsyncOpenAI` client, or its Azure version.
        strict_operation_names: Whether to record only well-known operation names.

    Raises:
        ImportError: `llamatelemetry-instrumentation-openai` is not installed.
        TypeError: The object is not a client of the openai library.

    Examples:
        >>> from llamatelemetry.llama import wrap_openai_client
        >>> from openai import OpenAI
        >>> client = wrap_openai_client(OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none"))
        >>> question = [{"role": "user", "content": "Say hi."}]
        >>> answer = client.chat.completions.create(model="m", messages=question, max_tokens=4)
        >>> answer.usage.completion_tokens  # The span of the call has it, too.
        4
        >>> wrap_openai_client("sk-123")
        Traceback (most recent call last):
        TypeError: client must be an openai.OpenAI or openai.AsyncOpenAI, got 'sk-123'
    """
    # True is the default, which the configuration may override; False is explicit.
    own: dict[str, Any] = {} if strict_operation_names else {"strict_operation_names": False}
    _plugin().instrument_client(client, config=active_config(**own))
    return client


def unwrap_openai_client(client: ClientT) -> ClientT:
    """Stop recording the calls of a wrapped client. Return the client.

    A client that is not wrapped is returned unchanged.

    Raises:
        ImportError: `llamatelemetry-instrumentation-openai` is not installed.

    Examples:
        >>> from llamatelemetry.llama import unwrap_openai_client, wrap_openai_client
        >>> from openai import OpenAI
        >>> client = wrap_openai_client(OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none"))
        >>> unwrap_openai_client(client) is client
        True
    """
    _plugin().uninstrument_client(client)
    return client


def _plugin() -> ModuleType:
    with required_by(
        "Wrapping a client of the openai library", "llamatelemetry-instrumentation-openai"
    ):
        import llamatelemetry_instrumentation_openai
    return llamatelemetry_instrumentation_openai
