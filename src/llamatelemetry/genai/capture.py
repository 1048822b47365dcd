"""Whether anything is done with content at all. What does it is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.genai.environment import read_genai_variables

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.genai.content.completion_hook import CompletionHook, GuardedHook
    from llamatelemetry.genai.content.recorder import ContentRecorder


def content_recorder(
    scope: str,
    version: str,
    config: LlamaTelemetryConfig,
    logger_provider: LoggerProvider | None,
    completion_hook: CompletionHook | None,
) -> ContentRecorder | None:
    """Make what a configuration asks for; ``None``, the default, is nothing at all.

    Args:
        scope: instrumentation scope of the events.
        version: its version.
        config: says what is captured.
        logger_provider: OpenTelemetry's global one when ``None``.
        completion_hook: the one that the environment names when ``None``.
    """
    variables = read_genai_variables()
    hook = _guarded_hook(completion_hook, variables.completion_hook)
    emits = variables.emit_event
    if emits is None:
        emits = config.capture_content in {"event_only", "span_and_event"}
    on_span = config.capture_content in {"span_only", "span_and_event"}
    if not (on_span or emits or hook is not None):
        return None

    from opentelemetry._logs import get_logger

    from llamatelemetry.genai.content.recorder import ContentRecorder

    return ContentRecorder(
        config,
        get_logger(scope, version, logger_provider) if emits else None,
        hook,
    )


def _guarded_hook(given: CompletionHook | None, name: str | None) -> GuardedHook | None:
    if given is None and name is None:
        return None

    from llamatelemetry.genai.content.completion_hook import GuardedHook, load_completion_hook

    hook = load_completion_hook(name) if given is None and name is not None else given
    return None if hook is None else GuardedHook(hook)
