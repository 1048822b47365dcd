"""Completion hooks: what an application or a vendor runs with the content of each call.

The protocol, the entry-point group and the types are opentelemetry-util-genai's, so that a hook
written for it, its own ``upload`` among them, works here. A hook is independent of what content
is captured and of sampling. It gets the content whole, and may change it before it is recorded.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from llamatelemetry.genai.environment import COMPLETION_HOOK
from llamatelemetry.otel.redaction.wordless import without_words

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord
    from opentelemetry.trace import Span

    from llamatelemetry.genai.model import Content

_GROUP: Final = "opentelemetry_genai_completion_hook"
_logger = logging.getLogger("llamatelemetry")


@runtime_checkable
class CompletionHook(Protocol):
    """Called once at the end of each call, before its span ends, on the thread that ends it."""

    def on_completion(
        self,
        *,
        inputs: list[Any],
        outputs: list[Any],
        system_instruction: list[Any],
        tool_definitions: list[Any] | None = None,
        span: Span | None = None,
        log_record: LogRecord | None = None,
    ) -> None:
        """Take note of a call.

        Args:
            inputs: ``InputMessage`` objects of `opentelemetry.util.genai.types`, or of the same
                shape where that package is not installed.
            outputs: ``OutputMessage`` objects; empty when the call failed.
            system_instruction: parts of the instructions given apart from the messages.
            tool_definitions: the tools that the model could ask for.
            span: the call's span, which may not be recording.
            log_record: the event that will be emitted, if one will.
        """
        ...


@cache
def load_completion_hook(name: str) -> CompletionHook | None:
    """Make the hook that an entry point of this name gives; one for the whole process.

    ``None``, with one warning, when there is none or it does not work.
    """
    found = entry_points(group=_GROUP)
    if name not in found.names:
        _logger.warning(
            "%s=%s names no installed hook; installed: %s. No hook is run.",
            COMPLETION_HOOK,
            name,
            ", ".join(sorted(found.names)) or "none",
        )
        return None
    try:
        hook = found[name].load()()
    except Exception:
        _logger.warning("The completion hook %r cannot be made; none is run.", name, exc_info=True)
        return None
    if not isinstance(hook, CompletionHook):
        _logger.warning("%r has no on_completion and is no completion hook; none is run.", name)
        return None
    # util-genai's way to say that its own hook could not be set up; it has logged why.
    return None if type(hook).__name__ == "_NoOpCompletionHook" else hook


class GuardedHook:
    """A hook whose errors are logged, with a traceback the first time, and go nowhere else."""

    def __init__(self, hook: CompletionHook) -> None:
        self._hook = hook
        self._types = _message_types()
        self._has_failed = False

    def run(self, content: Content, span: Span, log_record: LogRecord | None) -> Content:
        """Run the hook; give the content as the hook has left it."""
        from llamatelemetry.genai.content.hook_messages import HookMessages

        handed = HookMessages(content, self._types)
        try:
            self._hook.on_completion(
                inputs=handed.inputs,
                outputs=handed.outputs,
                system_instruction=handed.instructions,
                tool_definitions=handed.tools or None,
                span=span,
                log_record=log_record,
            )
        except Exception as error:
            self._report(error)
        return handed.content()

    def _report(self, error: Exception) -> None:
        level = logging.DEBUG if self._has_failed else logging.WARNING
        self._has_failed = True
        _logger.log(
            level,
            "The completion hook %s failed; the application is not affected. Further failures are "
            "logged at debug level.",
            type(self._hook).__qualname__,
            exc_info=without_words(error),
        )


def _message_types() -> Any:
    from llamatelemetry.genai import hook_types

    try:
        types = importlib.import_module("opentelemetry.util.genai.types")
    except ImportError:
        types = hook_types
    # Before 1.2 its classes had other names.
    return types if hasattr(types, "TextPart") else hook_types
