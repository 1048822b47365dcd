"""Completion hooks: functions of an application or vendor that receive the content of each call.

Protocol, entry point group and message types are those of opentelemetry-util-genai, so that a hook
written for it works here, its own `upload` included. A hook runs whether or not content is captured
and sampled. It receives the complete content, and may change it before it is recorded.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.parts import CutText
from llamatelemetry.genai.model import Content
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler
from llamatelemetry.otel.redaction.fail_closed import strip_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry._logs import LogRecord
    from opentelemetry.trace import Span

COMPLETION_HOOK: Final = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
_GROUP: Final = "opentelemetry_genai_completion_hook"
_TYPES: Final = "opentelemetry.util.genai.types"
_INSTALL: Final = "pip install --pre 'opentelemetry-util-genai >= 1.2b0'"
_logger = logging.getLogger("llamatelemetry")


@runtime_checkable
class CompletionHook(Protocol):
    """Object that is called once for each call, before its span ends, on the thread that ends it."""

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
        """Receive the content of a call.

        Args:
            inputs: `InputMessage` objects of `opentelemetry.util.genai.types`.
            outputs: `OutputMessage` objects; empty if the call failed without output.
            system_instruction: Parts of the instructions that are not among the messages.
            tool_definitions: Tools that the model may call.
            span: Span of the call, which may not be recording.
            log_record: Event that will be emitted, if any.
        """
        ...


@cache
def load_completion_hook(name: str) -> CompletionHook | None:
    """Return the hook of an entry point, created once per process.

    Returns `None` and logs one warning if there is no such hook or it cannot be created.
    """
    found = entry_points(group=_GROUP)
    if name not in found.names:
        _logger.warning(
            "No completion hook runs: %s=%s is not installed; installed hooks: %s",
            COMPLETION_HOOK,
            name,
            ", ".join(sorted(found.names)) or "none",
        )
        return None
    try:
        hook = found[name].load()()
    except Exception:
        _logger.warning("No completion hook runs: cannot create %r", name, exc_info=True)
        return None
    if not isinstance(hook, CompletionHook):
        _logger.warning("No completion hook runs: %r has no method on_completion", name)
        return None
    # util-genai returns this class if its own hook cannot be set up, and logs the reason.
    return None if type(hook).__name__ == "_NoOpCompletionHook" else hook


@cache
def message_types() -> Any:
    """Return the module with the message types.

    Returns `None` and logs one warning if opentelemetry-util-genai 1.2 or newer is not installed.
    """
    try:
        types = importlib.import_module(_TYPES)
    except ImportError:
        types = None
    if hasattr(types, "TextPart"):  # before 1.2 the classes had other names
        return types
    _logger.warning(
        "No completion hook runs: completion hooks need opentelemetry-util-genai. Install it: %s",
        _INSTALL,
    )
    return None


class GuardedCompletionHook:
    """A hook whose exceptions are logged and never reach the application.

    `types` is the module with the message types.
    """

    def __init__(self, hook: CompletionHook, types: Any) -> None:
        self._hook = hook
        self._types = types
        self._has_failed = False

    def run(self, content: Content, span: Span, log_record: LogRecord | None) -> Content:
        """Run the hook and return the content as the hook has changed it."""
        messages = HookMessages(content, self._types)
        try:
            self._hook.on_completion(
                inputs=messages.inputs,
                outputs=messages.outputs,
                system_instruction=messages.instructions,
                tool_definitions=messages.tools or None,
                span=span,
                log_record=log_record,
            )
        except Exception as error:
            raise_if_from_signal_handler(error)
            self._log(error)
        return messages.content()

    def _log(self, error: Exception) -> None:
        level = logging.DEBUG if self._has_failed else logging.WARNING
        self._has_failed = True
        _logger.log(
            level,
            "Completion hook %s failed; the application is not affected. Further failures are "
            "logged at DEBUG",
            type(self._hook).__qualname__,
            exc_info=strip_message(error),
        )


# Class in `opentelemetry.util.genai.types` by type of part.
_PART_CLASSES: Final = {
    "text": "TextPart",
    "reasoning": "ReasoningPart",
    "tool_call": "ToolCallRequestPart",
    "tool_call_response": "ToolCallResponsePart",
    "server_tool_call": "ServerToolCallPart",
    "server_tool_call_response": "ServerToolCallResponsePart",
    "compaction": "CompactionPart",
    "blob": "BlobPart",
    "file": "FilePart",
    "uri": "UriPart",
}


@dataclasses.dataclass
class OtherPart:
    """A part without a type in the conventions. util-genai's class for it is deprecated."""

    type: str
    content: Any = None


class HookMessages:
    """The lists that a hook receives and may change, converted from a `Content`."""

    def __init__(self, content: Content, types: Any) -> None:
        self._types = types
        # Keys without a field in the class, by object identity. The objects live as long as this
        # object; objects that a hook adds have no such keys.
        self._other_keys: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.inputs = [self._message("InputMessage", message) for message in content.inputs]
        self.outputs = [self._message("OutputMessage", message) for message in content.outputs]
        self.instructions = [self._part(part) for part in content.instructions]
        self.tools = [self._tool(tool) for tool in content.tools]

    def content(self) -> Content:
        """Return the current content, with the changes of the hook."""
        return Content(
            inputs=self._to_dicts(self.inputs),
            outputs=self._to_dicts(self.outputs),
            instructions=self._to_dicts(self.instructions),
            tools=self._to_dicts(self.tools),
        )

    def _message(self, name: str, message: Mapping[str, Any]) -> Any:
        parts = [self._part(part) for part in message["parts"]]
        return self._create(getattr(self._types, name), {**message, "parts": parts})

    def _part(self, part: Mapping[str, Any]) -> Any:
        kind = getattr(self._types, _PART_CLASSES.get(part["type"], ""), OtherPart)
        return self._create(kind, {name: _plain(value) for name, value in part.items()})

    def _tool(self, tool: Mapping[str, Any]) -> Any:
        is_function = tool["type"] == "function"
        name = "FunctionToolDefinition" if is_function else "GenericToolDefinition"
        return self._create(getattr(self._types, name), tool)

    def _create(self, kind: Any, values: Mapping[str, Any]) -> Any:
        names = {field.name for field in dataclasses.fields(kind)}
        # Fields without a default are required. They are None if the value is unknown.
        required = {
            field.name: None
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        known = {name: value for name, value in values.items() if name in names}
        created = kind(**(required | known))
        other = {name: value for name, value in values.items() if name not in names}
        if other:
            self._other_keys[id(created)] = (created, other)
        return created

    def _to_dicts(self, items: Iterable[Any]) -> list[dict[str, Any]]:
        return [converted for item in items if (converted := self._to_dict(item))]

    def _to_dict(self, item: Any) -> dict[str, Any]:
        if not dataclasses.is_dataclass(item) or isinstance(item, type):
            return cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        found: dict[str, Any] = {
            field.name: value
            for field in dataclasses.fields(item)
            # A tool may return null. In other fields, None means unknown.
            if (value := getattr(item, field.name)) is not None or field.name == "response"
        }
        if isinstance(found.get("parts"), list):
            found["parts"] = self._to_dicts(found["parts"])
        _, other = self._other_keys.get(id(item), (None, {}))
        return found | other


def _plain(value: Any) -> Any:
    """Convert internal types to bytes and plain text, which hooks expect."""
    if isinstance(value, BlobData):
        return value.decode()
    if isinstance(value, CutText):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in cast("dict[str, Any]", value).items()}
    return value
