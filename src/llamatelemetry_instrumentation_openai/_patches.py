"""What is wrapped in the openai client; the wrappers are in `_wrappers`.

``OpenAI.request`` and ``AsyncOpenAI.request`` are where every resource of every client meets:
chat, Responses, embeddings, images, audio, ``parse``, stream helpers, raw responses, Azure. The
two hooks beside them run inside ``request``: once per attempt, and once with the response's
headers. A program that never imports openai does not pay for the wrappers' code either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import Instrumenter, PatchPoint

if TYPE_CHECKING:
    from collections.abc import Callable


class Owner(Protocol):
    """Who has an instrumenter."""

    instrumenter: Instrumenter


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table. ``owner.instrumenter`` is looked up per call: it changes with re-instrumenting."""

    def wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_openai._wrappers import Wrappers

            return getattr(Wrappers(owner), name)

        return load

    return tuple(
        PatchPoint(
            "openai._client",
            path,
            wrapper(name),
            optional="._" in path,
            deferred=True,
        )
        for path, name in (
            ("OpenAI.request", "sync"),
            ("AsyncOpenAI.request", "asynchronous"),
            ("OpenAI._prepare_request", "attempt"),
            ("AsyncOpenAI._prepare_request", "attempt"),
            ("OpenAI._process_response", "response"),
            ("AsyncOpenAI._process_response", "response"),
        )
    )
